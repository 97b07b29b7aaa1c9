"""The live line of a run: a bar with rate and time left on a terminal, plain lines elsewhere."""

import sys
import time
from typing import Any


class Progress:
    """Context manager; ``show(iteration, figures)`` updates the bar or, off a terminal, prints now and then."""

    def __init__(self, total: int, done: int, batch: int, active: bool = True):
        self.total, self.first, self.batch, self.active = total, done, batch, active
        self.start = self.last = time.monotonic()
        self.bar: Any = None
        self.looked = ""  # what the last look at the pictures found

    def __enter__(self) -> "Progress":
        if self.active and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = [
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[figures]}"),
            ]
            self.bar = Bar(*columns, console=Console(stderr=True))
            self.bar.start()
            self.row = self.bar.add_task("training", total=self.total, completed=self.first, figures="")
        return self

    def __exit__(self, *error) -> None:
        if self.bar:
            self.bar.stop()

    def seen(self, figures: dict[str, float]) -> None:
        """Keep what a look at the pictures found, for the lines that follow."""
        shown = {"accuracy": "eval/prompt_accuracy", "Fréchet": "eval/frechet", "recall": "eval/recall"}
        found = [f"{name} {figures[key]:.3g}" for name, key in shown.items() if key in figures]
        self.looked = f"pictures: {', '.join(found)}" if found else self.looked

    def show(self, iteration: int, figures: dict[str, float]) -> None:
        """Show where the run stands."""
        if not self.active:
            return
        shown = {"gap": "x0_gap/rms", "online": "loss/online", "generator": "loss/generator"}
        parts = [f"{name} {figures[key]:.4g}" for name, key in shown.items() if key in figures]  # none in a warm-up
        text = "  ".join([f"{figures['images_per_sec']:.0f} img/s", *parts, *filter(None, [self.looked])])
        if self.bar:
            self.bar.update(self.row, completed=iteration, figures=text)
            return
        now = time.monotonic()
        if now - self.last > 15 or iteration == self.total:
            self.last = now
            pace = (iteration - self.first) / (now - self.start)
            left = (self.total - iteration) / max(pace, 1e-9)
            print(f"  {iteration}/{self.total}  {text}  {left / 60:.1f} min left", file=sys.stderr, flush=True)
