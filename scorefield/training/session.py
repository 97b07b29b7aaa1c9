"""A run from first to last iteration: resume, log, look, save, and stop safely on a signal."""

import math
import time
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from scorefield.errors import UserError
from scorefield.files import write_json
from scorefield.generators.base import Generator
from scorefield.monitors.watch import Watch
from scorefield.runfolder import RunFolder, peak_memory
from scorefield.task import Players, Task
from scorefield.training import checkpoint, shards
from scorefield.training.parameters import trainable
from scorefield.training.progress import Progress
from scorefield.training.signals import Interrupted, handled
from scorefield.training.trackers import Trackers
from scorefield.training.trainer import Trainer
from scorefield.training.writer import Writer, snapshot


class Stopped(Exception):
    """A monitor's line was crossed and ``monitors.action`` says to stop; the run was saved."""

    status = 3


class Session:
    """Drives a ``Trainer`` for a task within a run folder."""

    def __init__(self, task: Task, players: Players, folder: RunFolder, say=print):
        self.task, self.config, self.folder, self.say = task, task.config, folder, say
        self.generator: Generator = players.generator
        self.online = players.online
        training = self.config.training
        self.trainer = Trainer(training, players.teacher, players.online, players.generator, task.make_losses())
        self.iteration, self.seconds = 0, 0.0
        self.best: dict[str, Any] = {"gap": float("inf"), "name": ""}
        self.watch = Watch(self.config.monitors, training.iterations)
        self.good, self.rollbacks = "", 0  # newest checkpoint that every monitor found good; roll-backs so far
        self._signal, self._gap = 0, math.inf
        self.found: dict[str, float] = {}  # figures of the last look
        self.steps: list[tuple[int, float]] = []  # (first iteration, seconds of each) of what was logged
        self.writer, self.trackers = Writer(), Trackers([], folder.path, 0, {})
        self._nan_before = self._skipped_before = 0.0
        self._clean = 0  # up to this iteration nothing was masked since the run began or was resumed
        self._main = self.trainer.accelerator.is_main_process
        background = self.trainer.sharding is not None and self.config.checkpoints.asynchronous
        self._writers = shards.own_group() if background else None  # the processes' threads that write shares

    # ------------------------------------------------------------------ state

    def weights(self) -> dict[str, dict]:
        """Named weights of a checkpoint: the live generator, its average, the trained part of the online score."""
        online = {n: p for n, p in self.online.named_parameters() if p.requires_grad}
        buffers = {f"buffer.{n}": b for n, b in self.online.named_buffers()}
        return {
            "generator": self.generator.state_dict(),
            "ema": self.trainer.average.state_dict(),
            "online": online | buffers,
        }

    def save(self) -> None:
        """Write a checkpoint of this iteration, mark it latest, and drop old ones; perhaps in the background.

        A sharded one takes all processes.
        """
        sharded = self.trainer.sharding is not None
        if not self._main and not sharded:
            return
        if self.watch.good:
            self.good = f"iteration-{self.iteration:06d}"
        state = self.trainer.state() | {"seconds": self.seconds, "best": self.best}
        state |= {"monitors": self.watch.state(), "good": self.good, "rollbacks": self.rollbacks}
        weights, marks = self.weights(), (self.best["name"], self.good)
        if sharded:
            weights |= {part: shards.moments(*owner) for part, owner in self._optimizers().items()}
        if self.config.checkpoints.asynchronous:
            self.writer.wait()  # one copy in memory at a time
            weights, state = snapshot((weights, state))
            self.writer.submit(partial(self._write, self.iteration, weights, state, *marks))
        else:
            self._write(self.iteration, weights, state, *marks)

    def _write(self, iteration: int, weights: dict[str, dict], state: dict[str, Any], best: str, good: str) -> None:
        if self.trainer.sharding is not None:
            folder = shards.save(self.folder.checkpoints, iteration, weights, state, self._writers)
        else:
            folder = checkpoint.save(self.folder.checkpoints, iteration, weights, state)
        if self._main:
            self._mark(folder, best, good)

    def _mark(self, folder: Path, best: str, good: str) -> None:
        """Point to a new checkpoint, drop old ones, and let the run folder's copy elsewhere follow."""
        checkpoint.point(self.folder.checkpoints, "latest", folder.name)
        if best:
            checkpoint.point(self.folder.checkpoints, "best", best)
        checkpoint.prune(self.folder.checkpoints, self.config.checkpoints.keep, {best, good})
        self.folder.publish()

    def resume(self) -> bool:
        """Go on from the newest whole checkpoint; False when there is none.

        What the stopped run wrote about later iterations is dropped: they will be done again.
        """
        found = checkpoint.newest_whole(self.folder.checkpoints, self.say) if self._main else None
        number = self._agreed(-1 if found is None else int(found.name.removeprefix("iteration-")))
        if number < 0:
            if self._main:
                self.folder.forget_after(-1)
            return False
        folder = self.folder.checkpoints / f"iteration-{number:06d}"
        self.load(folder)
        self.say(f"resuming from {folder.name}")
        return True

    def _optimizers(self) -> dict[str, tuple[torch.nn.Module, torch.optim.Optimizer]]:
        """The networks with their optimizers, by the names of their parts of a sharded checkpoint."""
        trainer = self.trainer
        return {
            "generator_optimizer": (self.generator, trainer.generator_player.optimizer),
            "online_optimizer": (self.online, trainer.online_player.optimizer),
        }

    def load(self, folder: Path) -> None:
        """Take the whole state of a checkpoint and forget what was written about later iterations."""
        self.writer.wait()
        sharded = (folder / shards.SHARDS).is_dir()
        if sharded != (self.trainer.sharding is not None):
            kind = "fsdp2" if sharded else "none"
            raise UserError(f"{folder} was written with training.sharding={kind}: go on with it")
        state = self._restore(folder) if sharded else self._load_whole(folder)
        self.trainer.load_state(state)
        self.iteration = int(folder.name.removeprefix("iteration-"))
        self.seconds, self.best = state["seconds"], state["best"]
        # stray samples of the past must not count as those of the first iterations from here
        self._nan_before, self._skipped_before = state["nan_samples"], sum(state["skipped"])
        self._clean = self.iteration
        self.watch.load_state(state["monitors"])
        self.good, self.rollbacks = state["good"], state["rollbacks"]
        if self._main:
            self.folder.forget_after(self.iteration)

    def _restore(self, folder: Path) -> dict[str, Any]:
        """Read a sharded checkpoint into all weights and moments; returns its state."""
        found = {part: shards.make_moments(folder, part, *owner) for part, owner in self._optimizers().items()}
        return shards.restore(folder, self.weights() | found)

    def _load_whole(self, folder: Path) -> dict[str, Any]:
        """Read a checkpoint into all weights; returns its state."""
        saved = checkpoint.load(folder)
        if changes := self.generator.fit(saved.weights["generator"]):
            self.trainer.apply(changes)
        self.generator.load_state_dict(saved.weights["generator"])
        self.trainer.average.load_state_dict(saved.weights["ema"])
        own = dict(self.online.named_parameters()) | {f"buffer.{n}": b for n, b in self.online.named_buffers()}
        for name, value in saved.weights["online"].items():
            own[name].data.copy_(value)
        return saved.state

    # ------------------------------------------------------------------ the run

    def run(self) -> None:
        """Train to the configured iteration count; raises Interrupted after saving on SIGTERM, SIGUSR1 or Ctrl-C."""
        training, checkpoints = self.config.training, self.config.checkpoints
        since = self.iteration
        with (
            handled(self._note_signal),
            self._writing(),
            self._tracking(),
            Progress(training.iterations, self.iteration, training.batch, self._main) as progress,
        ):
            if self.iteration == 0:
                self.look()
                progress.seen(self.found)
            start = tick = time.monotonic()
            before = self.seconds
            while self.iteration < training.iterations:
                self.trainer.iteration(self.iteration)
                self.iteration += 1
                last = self.iteration == training.iterations
                self.seconds = before + time.monotonic() - start
                due = self.iteration % training.log_every == 0 or last
                stop = self._asked_to_stop(due)
                if due or stop:
                    figures = self.log(self.iteration - since, time.monotonic() - tick)
                    progress.show(self.iteration, figures)
                    since, tick = self.iteration, time.monotonic()
                if stop:
                    self.save()
                    raise Interrupted(stop)
                if self.iteration % checkpoints.every == 0 or last:
                    paused = time.monotonic()
                    if self._back(self.look()):
                        since = self.iteration
                        tick = paused
                    else:
                        progress.seen(self.found)
                        self._compare()
                        self.save()
                    tick += time.monotonic() - paused  # looking and saving are no part of the rate
            if stop := self._asked_to_stop(True):  # it came in the last look or save
                raise Interrupted(stop)

    def log(self, iterations: int, seconds: float) -> dict[str, float]:
        """Read the device's figures, check them, write one line of metrics.jsonl."""
        trainer, training = self.trainer, self.config.training
        figures = trainer.figures(iterations)
        bad = int(figures["nan_samples"] - self._nan_before)
        skipped = int(figures["skipped_steps"] - self._skipped_before)
        self._nan_before, self._skipped_before = figures["nan_samples"], figures["skipped_steps"]
        samples = training.batch * iterations
        if bad > samples / 2 or skipped > iterations:
            low, high = trainer.generator_noise(torch.tensor([1e-6, 1 - 1e-6], device=trainer.device)).tolist()
            player = "generator" if bad else "online score or generator gradient"
            raise UserError(
                f"iteration {self.iteration}: {bad} of {samples} samples and {skipped} steps were not finite, so"
                f" training stopped (player: {player}, sigma {low:.3g} to {high:.3g}); {self.last_good()};"
                " lower the learning rates or use training.precision=fp32, then --resume"
            )
        if not bad and not skipped:
            self._clean = self.iteration
        elif self._clean == self.iteration - iterations:  # told once, not with every line
            self.say(
                f"warning: by iteration {self.iteration} {bad} of {samples} samples and {skipped} steps were not finite"
                f" and were left out; {self.last_good()}"
            )
        self.steps.append((self.iteration - iterations, seconds / iterations))
        phases = {f"time/{name}": value / iterations for name, value in trainer.clock.read().items()}
        record = {
            "iteration": self.iteration,
            "images": trainer.images,
            "seconds": round(self.seconds, 3),
            **figures,
            "images_per_sec": training.batch * iterations / max(seconds, 1e-9),
            "memory_bytes": peak_memory(str(trainer.device)),
            **phases,
        }
        if self._main:
            self._record(record)
        self._gap = figures.get("x0_gap/rms", math.inf)  # not there in a warm-up
        return record

    def _compare(self) -> None:
        """Call this iteration the best if its gap, as last logged, is the smallest of the last four fifths of the run.

        The judge may not choose a checkpoint; the gap between the two scores, data-free, may.
        """
        if self.iteration >= 0.2 * self.config.training.iterations and self._gap < self.best["gap"]:
            self.best = {"gap": self._gap, "name": f"iteration-{self.iteration:06d}"}

    def last_good(self) -> str:
        """The newest whole checkpoint from before samples or steps were not finite, in words."""
        folders = checkpoint.listed(self.folder.checkpoints)
        before = [path for path in folders if int(path.name.removeprefix("iteration-")) <= self._clean]
        found = next((path for path in before if not checkpoint.damage(path)), None)
        if found is None:
            return "no checkpoint was saved before that"
        later = " (remove the later ones to go on from it)" if folders[0] != found else ""
        return f"the last good checkpoint is {found.name}{later}"

    def look(self) -> list[dict[str, Any]]:
        """Let the task draw and measure the averaged generator and the monitors see it; returns new warnings."""
        together = self.trainer.sharding is not None and self.trainer.sharding.together
        if not self._main and not together:
            return []
        fresh: list[dict[str, Any]] = []
        with self.averaged():
            figures = self.task.preview(self.generator, self.iteration)
            probe = self.task.probe(self.generator) if self.watch.monitors else None
        if probe is not None:
            probe.online = self.online if self.trainer.loss.needs_online else None
            seen, fresh = self.watch.look(probe, self.iteration)
            figures = figures | seen
            if self._main:
                write_json(self.folder.path / "warnings.json", self.watch.warnings)
        for warning in fresh:
            self.say(f"warning: {warning['text']}")
        self.found = figures
        if figures and self._main:
            record = {
                "iteration": self.iteration,
                "images": self.trainer.images,
                "seconds": round(self.seconds, 3),
            }
            self._record(record | figures)
        return fresh

    def _record(self, record: dict[str, Any]) -> None:
        """One line of figures, for the run folder and the trackers that were named."""
        self.folder.append_metrics(record)
        self.trackers.log(record)

    def _back(self, fresh: list[dict[str, Any]]) -> bool:
        """Do what ``monitors.action`` says about new warnings; True when the run went back to an earlier checkpoint.

        Raises Stopped, the run saved, when it says to stop or there is nothing (more) to go back to.
        """
        settings, target = self.config.monitors, -1
        if fresh and settings.action != "warn":
            target = 0  # stop
            if settings.action == "rollback" and self.good and self.rollbacks < settings.rollbacks:
                target = int(self.good.removeprefix("iteration-"))
        target = self._agreed(target)
        if target < 0:
            return False
        if target == 0:
            self.save()
            names = ", ".join(warning["monitor"] for warning in fresh) or "a monitor"
            raise Stopped(f"stopped at iteration {self.iteration} by monitors.action={settings.action}: {names}")
        warnings, rollbacks = self.watch.warnings, self.rollbacks + 1
        self.load(self.folder.checkpoints / f"iteration-{target:06d}")
        self.watch.warnings, self.rollbacks = warnings, rollbacks
        for player in (self.trainer.generator_player, self.trainer.online_player):
            player.rate_scale = 0.5**rollbacks
        self.say(f"went back to iteration {target}; both learning rates are now {0.5**rollbacks:g} of the configured")
        return True

    @contextmanager
    def averaged(self):
        """The generator with its averaged weights, in evaluation mode."""
        self.trainer.average.swap()
        self.generator.eval()
        try:
            yield self.generator
        finally:
            self.generator.train()
            self.trainer.average.swap()

    @contextmanager
    def _tracking(self):
        """The configured trackers, in the process that writes."""
        names = self.config.trackers if self._main else []
        self.trackers = Trackers(names, self.folder.path, self.iteration, asdict(self.config))
        try:
            yield
        finally:
            self.trackers.close()

    @contextmanager
    def _writing(self):
        """No checkpoint is under way on exit; one that failed is an error, unless another error is."""
        try:
            yield
        except (Interrupted, Stopped):
            self.writer.wait()
            raise
        except BaseException:
            self.writer.join()
            raise
        self.writer.wait()

    def _note_signal(self, number: int) -> None:
        """Remember a signal: the loop saves after the iteration at hand and stops."""
        self._signal = number

    def _asked_to_stop(self, due: bool) -> int:
        """The signal that arrived, or 0; several processes agree on it where figures are due, all at one iteration."""
        if self.trainer.accelerator.num_processes == 1:
            return self._signal
        return self._agreed(self._signal) if due else 0

    def _agreed(self, number: int) -> int:
        """The largest of what the processes say."""
        accelerator = self.trainer.accelerator
        if accelerator.num_processes == 1:
            return number
        return int(accelerator.gather(torch.tensor([number], device=self.trainer.device)).max())

    def overhead(self) -> dict[str, float]:
        """What an iteration took over the sum of its bare passes (``scorefield.cost.passes.logged_overhead``)."""
        from scorefield.cost.passes import logged_overhead

        return logged_overhead(self.trainer, self.steps, self.iteration, self.say)

    def totals(self) -> dict[str, Any]:
        """The part of summary.json that the trainer knows."""
        return {
            "task": self.task.name,
            "seed": self.config.training.seed,
            "device": str(self.trainer.device),
            "loss": self.config.loss.get("name", "sim"),
            "wall_seconds": round(self.seconds, 2),
            "peak_memory_bytes": peak_memory(str(self.trainer.device)),
            "iterations": self.iteration,
            "iterations_total": self.config.training.iterations,
            "images_generated": self.trainer.images,
            "nan_samples": int(self.trainer.nan_samples),
            "warnings": self.watch.warnings,
            "rollbacks": self.rollbacks,
            "trained_parameters": sum(p.numel() for p in trainable(self.generator)),
        }
