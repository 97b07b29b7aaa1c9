"""The live line of a comparison: which run of how many, how far each is, time left."""

import sys
import time
from typing import Any

from scorefield.compare.plan import Job
from scorefield.report.tables import seconds


class CompareProgress:
    """Context manager; ``show(runner)`` moves the bar, ``ended(job)`` prints one line a run."""

    def __init__(self, total: int):
        self.total, self.done = total, 0
        self.bar: Any = None
        self.last = time.monotonic()
        self.left = ""

    def __enter__(self) -> "CompareProgress":
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar

            columns = [BarColumn(), TextColumn("{task.percentage:3.0f} %"), TextColumn("{task.fields[said]}")]
            self.bar = Bar(*columns, console=Console(stderr=True))
            self.bar.start()
            self.row = self.bar.add_task("runs", total=1.0, said="")
        return self

    def __exit__(self, *error) -> None:
        if self.bar:
            self.bar.stop()

    def show(self, runner: Any) -> None:
        """Show where the comparison stands; off a terminal once a minute."""
        self.done = sum(job.state in ("done", "failed") for job in runner.jobs)
        now = time.monotonic()
        if not self.bar and now - self.last < 60:
            return
        self.last = now
        left = runner.seconds_left()
        self.left = "" if left is None else f", about {seconds(max(1, round(left)))} left"
        active = [how_far(job, runner.share(job)) for job in runner.jobs if job.state == "running"]
        listed = ", ".join(active[:3]) + (f" and {len(active) - 3} more" if len(active) > 3 else "")
        said = f"{self.done} of {self.total} runs done{self.left}" + (f"; {listed}" if listed else "")
        if self.bar:
            self.bar.update(self.row, completed=runner.work_done() / max(runner.work(), 1e-9), said=said)
        else:
            print(f"  {said}", file=sys.stderr, flush=True)

    def ended(self, job: Job) -> None:
        """Print how a run ended."""
        self.done += 1
        line = f"  [{self.done}/{self.total}] {job.name}: {job.state}{f', {job.error}' if job.error else ''}"
        if self.bar:
            self.bar.console.print(line, markup=False, highlight=False)
        else:
            print(line, file=sys.stderr, flush=True)


def how_far(job: Job, share: float) -> str:
    """A running job and its progress; after the last iteration it measures and writes its report."""
    return f"{job.name} {100 * share:.0f} %" if share < 1 else f"{job.name} measuring"
