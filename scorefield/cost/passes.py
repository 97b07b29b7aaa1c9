"""The bare network passes of an iteration, each timed by itself at its own cost."""

import statistics
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from scorefield.cost.speed import timed
from scorefield.denoiser import Denoiser, join
from scorefield.teachers.shared import holder
from scorefield.training.compiling import parts_of
from scorefield.training.evaluations import branches_at
from scorefield.training.parameters import frozen, trainable
from scorefield.training.recompute import Recompute
from scorefield.training.trainer import Trainer


@dataclass
class Pass:
    """A bare pass of one network: what is timed, and how often an iteration needs it."""

    count: float
    call: Callable[[], object]
    plain: Callable[[], object]  # the same, not compiled as a whole, so that its operations can be counted
    forward: Callable[[], object]  # the same without a graph
    cost: int  # in those: 1, 2 (input gradient) or 3 (parameter gradient)
    branches: int = 1  # 2 where guidance doubles the batch
    counted: bool = True  # in forward-equivalents: a generator counts once, however many steps it has


def overhead_ratio(trainer: Trainer, step_seconds: float, rounds: int = 3) -> dict[str, float]:
    """What the iterations of a run took, over the sum of the bare passes that its loss needs, timed here and now.

    Args:
        step_seconds: of an iteration of the run.

    Returns:
        {step_seconds, bare_seconds, overhead_ratio}.
    """
    device, least = str(trainer.device), 0.0
    for each in bare_passes(trainer).values():
        each.call()
        least += each.count * statistics.median(timed(each.call, device)[0] for _ in range(rounds))
    return {"step_seconds": step_seconds, "bare_seconds": least, "overhead_ratio": step_seconds / least}


def logged_overhead(
    trainer: Trainer, steps: list[tuple[int, float]], iteration: int, say: Callable[[str], object]
) -> dict[str, float]:
    """``overhead_ratio`` of the median of what a run logged.

    Args:
        steps: (first iteration, seconds of each) of every line logged. The first line is left out, where there are
            more, and those of an earlier loss or of the online score's warm-up.
        iteration: how far the run came. say: told where the passes do not fit beside the run.

    Returns:
        {} where no line is left, where several processes wait for each other, and where the passes do not fit.
    """
    since = max(start for start in trainer.stages if start < max(1, iteration))
    since = max(since, trainer.config.online_warmup)
    counted = [seconds for first, seconds in steps[1:] or steps if first >= since]
    if not counted or trainer.accelerator.num_processes > 1:
        return {}
    try:
        return overhead_ratio(trainer, statistics.median(counted))
    except torch.OutOfMemoryError:
        say("the bare passes did not fit beside the run: no overhead ratio")
        return {}


def needed_flops(trainer: Trainer, each: Pass) -> int:
    """Operations of a pass, without those made for the second time."""
    return count_flops(each.plain, trainer.recompute)


def count_flops(call: Callable[[], object], recompute: Recompute | None = None) -> int:
    """Floating-point operations of a call, as torch counts them; without those that ``recompute`` makes once more.

    Not by its FlopCounterMode, whose hooks on modules fail where an input asks for gradients and there is no graph.
    """
    from scorefield.cost.ledger import Ledger

    ledger = Ledger(torch.device("meta"))  # it books no tensor of another device
    if recompute is not None:
        recompute.counter = ledger
    try:
        with torch.compiler.set_stance("force_eager"), ledger:  # compiled code is not seen
            call()
    finally:
        if recompute is not None:
            recompute.counter = None
    return ledger.flops


def bare_passes(trainer: Trainer) -> dict[str, Pass]:
    """The passes of one iteration, as ``passes_per_iteration`` counts them, on the networks of ``trainer``."""
    config, loss = trainer.config, trainer.loss
    part = trainer._parts(0)[0]
    with torch.no_grad():  # a graph kept from here would stand beside those of the passes
        sample = trainer._render(part)
    z = sample.x0
    noise = torch.ones(len(z), device=z.device)
    accumulation, shared = config.accumulation, config.accumulation == 1 and not config.fresh_samples
    student = getattr(trainer.generator, "denoiser", None)
    batch = sample.batch
    made: dict[str, Pass] = {}

    def add(name: str, count: float, who: Denoiser, scale: float, condition, cost: int) -> None:
        """A pass of ``who`` on the batch, which guidance doubles."""
        x, sigma, told, branches, network = z, noise, condition, branches_at(scale), bare(who)
        if scale == 0:
            told = who.null_condition(condition)
        elif scale != 1 and type(who).branches is not Denoiser.branches:  # it has a way of its own (Perp-Neg)
            network = lambda x, sigma, told: torch.cat(who.branches(x, sigma, told))  # noqa: E731
        elif scale != 1:
            told = join(condition, who.null_condition(condition))
            x, sigma = torch.cat([x, x]), torch.cat([sigma, sigma])
        kind = {1: forward_only, 2: input_gradient, 3: parameter_gradient}[cost]
        given = who, x, sigma, told
        plain = kind(trainer, network, *given)
        whole = config.compile and parts_of(holder(who)) == [holder(who)]  # compiled blocks are called in it
        call = kind(trainer, torch.compile(network), *given) if whole else plain
        forward = forward_only(trainer, network, *given)
        made[name] = Pass(count * accumulation, call, plain, forward, cost, branches)

    if isinstance(student, Denoiser):
        add("generator, parameter gradient", 1, student, 1, batch.teacher_condition, 3)
        if not shared and loss.needs_online:
            add("generator, forward", config.online_updates, student, 1, batch.teacher_condition, 1)
    else:
        links = generator_links(trainer, batch)
        for name, (run, forward, cost) in links.items():
            made[name] = Pass(accumulation, run, run, forward, cost, counted=cost == 3)
        if not shared and loss.needs_online:
            run = trainer_forward(trainer, batch)
            made["generator, forward"] = Pass(config.online_updates * accumulation, run, run, run, 1)
    cost, label = (2, "input gradient") if loss.needs_jacobian else (1, "forward")
    if loss.needs_teacher:
        add(f"teacher, {label}", 1, trainer.teacher.denoiser, config.guidance_scale, batch.teacher_condition, cost)
    if loss.needs_online:
        online, told = trainer.online, batch.online_condition
        scale = config.online_training_guidance_scale
        add("online score, parameter gradient", config.online_updates, online, scale, told, 3)
        if loss.online_pull:
            given = trainer.teacher.denoiser, config.guidance_scale, batch.teacher_condition
            add("teacher, forward for the online score", config.online_updates, *given, 1)
        add(f"online score, {label}", 1, online, config.online_guidance_scale, told, cost)
    return made


def bare(denoiser: Denoiser) -> Callable[[Tensor, Tensor, Any], Tensor]:
    """The network inside a denoiser, without scaling and conversion; the denoiser itself where there is none."""
    from scorefield.teachers.native import NativeDenoiser
    from scorefield.teachers.shared import AdapterView

    if isinstance(denoiser, AdapterView):
        inner = bare(denoiser.base)

        def switched(x: Tensor, sigma: Tensor, condition) -> Tensor:
            denoiser._switch(denoiser.role)
            try:
                return inner(x, sigma, condition)
            finally:
                denoiser._switch("")

        return switched
    if isinstance(denoiser, NativeDenoiser):
        middle = denoiser.process.timestep(torch.ones(1)).item() * denoiser.time_scale
        dtype = denoiser.dtype
        return lambda x, sigma, condition: denoiser.call(x.to(dtype), torch.full_like(sigma, middle), condition)
    return denoiser


def forward_only(trainer, network, owner, x, sigma, condition):
    """A pass without a graph."""

    def run() -> None:
        with torch.no_grad(), trainer._autocast():
            network(x, sigma, condition)

    return run


def input_gradient(trainer, network, owner, x, sigma, condition):
    """Forward and backward to the input, parameters frozen."""

    def run() -> None:
        leaf = x.detach().requires_grad_(True)
        with frozen(owner) if isinstance(owner, nn.Module) else nullcontext():
            with trainer._autocast():
                output = network(leaf, sigma, condition)
            torch.autograd.grad(output, leaf, torch.ones_like(output))

    return run


def parameter_gradient(trainer, network, owner, x, sigma, condition):
    """Forward and backward to the parameters."""
    parameters = trainable(owner)

    def run() -> None:
        with trainer._autocast():
            output = network(x, sigma, condition)
        torch.autograd.grad(output, parameters, torch.ones_like(output), allow_unused=True)

    return run


def generator_links(trainer: Trainer, batch) -> dict[str, tuple[Callable[[], object], Callable[[], object], int]]:
    """By name, each step of a generator that is no denoiser: with its backward, without a graph, and its cost.

    The first step holds the parameters (3 forwards), a further one hands on the gradient of what it was given (2).
    """
    parameters, made = trainable(trainer.generator), {}
    given: tuple[Any, ...] = ()

    def timed_link(link: Callable[..., Tensor], *inputs: Tensor) -> tuple[Callable[[], object], Callable[[], object]]:
        def run() -> None:
            leaves = [value.detach().requires_grad_(True) for value in inputs]
            with trainer._autocast():
                output = link(*leaves)
            torch.autograd.grad(output, leaves or parameters, torch.ones_like(output), allow_unused=True)

        def forward() -> Tensor:
            with torch.no_grad(), trainer._autocast():
                return link(*inputs)

        return run, forward

    for place, (name, link) in enumerate(trainer.generator.links(batch)):
        run, forward = timed_link(link, *given)
        label = f"generator{name and f': {name}'}, {'input' if place else 'parameter'} gradient"
        made[label] = run, forward, 2 if place else 3
        given = (forward(),)
    return made


def trainer_forward(trainer: Trainer, batch) -> Callable[[], object]:
    """A generator's forward without a graph."""

    def run() -> None:
        with torch.no_grad(), trainer._autocast():
            trainer.generator(batch)

    return run
