"""From a ``Spec`` to runs: every variant resolved, checked, held against the first, and given its iterations."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scorefield import config as configuration
from scorefield.compare.spec import Spec
from scorefield.errors import UserError, suggest

# What must be alike for figures to be comparable; a section's name stands for all its keys.
SAME = ("task", "teacher", "prompt", "prompts", "evaluation", "training.seed", "training.device")
FREE = ("teacher.dtype",)  # how a teacher is kept in memory
START = re.compile(r"=run:(\S+)")  # key=run:NAME: the run folder of variant NAME with the same seed


@dataclass
class Variant:
    """A resolved variant.

    Attributes:
        overrides: its own; words: common and own together, as the ``run`` command gets them (no seed, no budget).
        iterations: generator updates; 0 while a budget of minutes is not measured yet.
        passes: forward passes of a network per generated image, see ``passes_per_iteration``.
        starts: names of variants whose finished runs it starts from.
    """

    name: str
    title: str
    note: str
    overrides: list[str]
    words: list[str]
    config: Any
    batch: int
    passes: float
    iterations: int = 0
    starts: list[str] = field(default_factory=list)

    @property
    def images(self) -> int:
        return self.iterations * self.batch

    @property
    def network_evaluations(self) -> float:
        return self.images * self.passes


@dataclass
class Job:
    """One run: a variant with a seed. ``state``: waiting, running, done, failed or stopped."""

    variant: Variant
    seed: int
    folder: Path
    state: str = "waiting"
    error: str = ""

    @property
    def name(self) -> str:
        return self.folder.name


@dataclass
class Plan:
    """Everything that will run."""

    spec: Spec
    variants: list[Variant]
    device: str

    def jobs(self, out: Path) -> list[Job]:
        """Runs in order: all variants of the first seed come first, so that an early look compares all."""
        return [
            Job(variant, seed, out / f"{variant.name}-seed{seed}")
            for seed in self.spec.seeds
            for variant in self.variants
        ]

    def words(self, job: Job) -> list[str]:
        """Overrides of one run."""
        words = [START.sub(lambda m: f"={job.folder.parent / f'{m[1]}-seed{job.seed}'}", w) for w in job.variant.words]
        words.append(f"training.seed={job.seed}")
        return [*words, f"training.iterations={job.variant.iterations}"] if self.spec.budget else words

    def resolved(self, job: Job) -> Any:
        """Configuration of one run, as its folder will hold it."""
        return resolve(self.spec, self.words(job))

    def set_speed(self, seconds_per_evaluation: float) -> None:
        """Turn a budget of minutes into iterations, at the measured seconds per network evaluation."""
        total = 60 * self.spec.budget["minutes"] / seconds_per_evaluation
        for variant in self.variants:
            variant.iterations = iterations_for("network_evaluations", total, variant)

    def lines(self, out: Path) -> list[str]:
        """What --dry-run prints."""
        seeds = len(self.spec.seeds)
        runs = f"{len(self.variants)} variants × {seeds} {'seed' if seeds == 1 else 'seeds'}"
        wide = max(len(v.name) for v in self.variants)
        lines = [
            f"task {self.spec.task} on {self.device}: {runs} = {seeds * len(self.variants)} runs into {out}",
            *([f"budget: {budget_text(self.spec.budget)} a run"] if self.spec.budget else []),
            f"{'':{wide}}  iterations  batch     images  passes/image  network evaluations",
        ]
        for v in self.variants:
            if v.iterations:
                cost = f"{v.iterations:10}  {v.batch:5}  {v.images:9}  {v.passes:12g}  {v.network_evaluations:19.4g}"
            else:
                cost = f"{'measured':>10}  {v.batch:5}  {'':9}  {v.passes:12g}"
            lines.append(f"{v.name:{wide}}  {cost}  {' '.join(v.overrides)}")
        if all(v.iterations for v in self.variants):
            total = seeds * sum(v.network_evaluations for v in self.variants)
            lines.append(f"{total:.4g} network evaluations in all")
        return lines


def budget_text(budget: dict[str, float]) -> str:
    """50000 images; 2e+06 network evaluations."""
    ((kind, amount),) = budget.items()
    return f"{amount:.10g} {kind.replace('_', ' ')}"


def make_plan(spec: Spec, device: str | None = None) -> Plan:
    """Resolve and check every variant; nothing is written or loaded yet.

    Args:
        device: where the runs were made, to look at them elsewhere: the machine and the inputs are not checked then.

    Raises:
        UserError: no variant, an unknown key or a bad value in one (named), a seed or task inside one, variants
            whose figures could not be compared, or a budget beside training.iterations.
    """
    from scorefield.commands.common import resolve_device
    from scorefield.plugins import load_task

    if not spec.variants:
        raise UserError('there is nothing to compare: variants is empty (give --variant "name: key=value", or a file)')
    if not spec.seeds:
        raise UserError("there is nothing to run: seeds is empty")
    task_class = load_task(spec.task)
    refuse_fixed(spec)
    variants: list[Variant] = []
    for one in spec.variants:
        words = layered(spec.common, one.overrides, configuration.free_sections(task_class.Config))
        starts = starts_of(one.name, words, [v.name for v in variants])
        try:
            config = resolve(spec, stand_in(words))
            variant = Variant(one.name, one.title, one.note, one.overrides, words, config, config.training.batch, 0.0)
            measure_cost(variant)
            if device is None:
                check(task_class, config)
        except UserError as error:
            raise UserError(f'variant "{one.name}": {error}') from error
        variant.starts = starts
        variants.append(variant)
    refuse_unlike(variants)
    for variant in variants:
        variant.iterations = variant.config.training.iterations
        if spec.budget:
            ((kind, amount),) = spec.budget.items()
            variant.iterations = 0 if kind == "minutes" else iterations_for(kind, amount, variant)
    return Plan(spec, variants, device or resolve_device(variants[0].config.training.device))


def check(task_class: Any, config: Any) -> None:
    """The task's own checks, before a folder is made."""
    from scorefield.commands.common import check_task, resolve_device
    from scorefield.runfolder import RunFolder

    check_task(task_class(config, RunFolder(Path("not-made")), resolve_device(config.training.device)))


def measure_cost(variant: Variant) -> None:
    """Forward passes an image, counted as ``run --dry-run`` does."""
    from scorefield.commands.run import passes_per_iteration

    variant.passes = passes_per_iteration(variant.config.build_loss(), variant.config.training)


def resolve(spec: Spec, words: list[str]) -> Any:
    """Configuration of the task from preset and overrides."""
    from scorefield.commands.common import build_config
    from scorefield.plugins import load_task

    task_class = load_task(spec.task)
    return build_config(task_class, Path(spec.config) if spec.config else None, words)


def layered(common: list[str], own: list[str], free: list[str]) -> list[str]:
    """``common``, then ``own``. Where both name the part of a free section (loss.name) and the names differ,
    the common options of the old part are dropped, as a preset's are."""
    values = [dict(word.split("=", 1) for word in words) for words in (common, own)]
    renamed = [s for s in free if len({v.get(f"{s}.name") for v in values} - {None}) == 2]
    return [w for w in common if not w.startswith(tuple(f"{s}." for s in renamed))] + own


def stand_in(words: list[str]) -> list[str]:
    """Overrides in which something that can be checked stands for runs that are not there yet."""
    words = [f"{word.partition('=')[0]}=teacher" if word.startswith("generator.init=run:") else word for word in words]
    return [START.sub(lambda m: f"={Path.cwd()}", word) for word in words]


def starts_of(name: str, words: list[str], before: list[str]) -> list[str]:
    """Variants that ``name`` starts from; they must stand before it."""
    found = [m[1] for word in words if (m := START.search(word))]
    for start in found:
        if start not in before:
            raise UserError(
                f'variant "{name}" starts from the run of "{start}", which is no variant before it: '
                f"{suggest(start, before)}"
            )
    return found


def refuse_fixed(spec: Spec) -> None:
    """Raise UserError for a seed or a task among overrides, and for iterations beside a budget."""
    places = [("common", spec.common), *((f'variant "{v.name}"', v.overrides) for v in spec.variants)]
    for where, words in places:
        for word in words:
            key, _, value = word.partition("=")
            if key == "training.seed":
                raise UserError(
                    f"{where} sets training.seed={value}, but every variant runs with seeds {spec.seeds}: "
                    "use seeds: […] or --seeds"
                )
            if key == "task":
                raise UserError(f"{where} sets task={value}, but the comparison's task is {spec.task}")
            if key == "training.iterations" and spec.budget:
                raise UserError(
                    f"{where} sets training.iterations={value}, but the budget {budget_text(spec.budget)} "
                    "decides the iterations: leave one out"
                )


def refuse_unlike(variants: list[Variant]) -> None:
    """Raise UserError for the first setting that makes two variants incomparable, with both values."""
    first = variants[0]
    old = dotted(first.config)
    for variant in variants[1:]:
        new = dotted(variant.config)
        for key in sorted(set(old) | set(new)):
            if key not in FREE and (key.startswith(tuple(f"{s}." for s in SAME)) or key in SAME):
                a, b = (repr(values[key]) if key in values else "left out" for values in (old, new))
                if a != b:
                    raise UserError(
                        f'variants "{first.name}" and "{variant.name}" cannot be compared: '
                        f"{key} is {a} in one and {b} in the other"
                    )


def dotted(config: Any) -> dict[str, Any]:
    """A configuration as one flat dict of dotted keys."""
    from dataclasses import asdict

    found: dict[str, Any] = {}

    def walk(values: dict[str, Any], prefix: str) -> None:
        for key, value in values.items():
            if isinstance(value, dict):
                walk(value, f"{prefix}{key}.")
            else:
                found[f"{prefix}{key}"] = value

    walk(asdict(config), "")
    return found


def iterations_for(kind: str, amount: float, variant: Variant) -> int:
    """Iterations that spend ``amount`` images or network evaluations, to the nearest.

    Raises UserError when it is not enough for one.
    """
    step = variant.batch * (variant.passes if kind == "network_evaluations" else 1)
    iterations = round(amount / step)
    if iterations < 1:
        raise UserError(
            f'variant "{variant.name}": a budget of {amount:.4g} {kind.replace("_", " ")} is less than one iteration, '
            f"which takes {step:.4g}"
        )
    return iterations
