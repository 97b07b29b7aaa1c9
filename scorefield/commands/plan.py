"""What ``scorefield run --dry-run`` prints: the run, its operations, its memory, and whether that fits."""

import sys
from functools import partial

from scorefield.cost.budget import advise, amount, memory_of, read_size, room_on
from scorefield.cost.estimate import Estimate, estimate
from scorefield.errors import UserError

COMPILED = "training.compile is on, and this is the estimate without it: what a compiled network keeps differs"


def print_plan(task, device: str, given_memory: str | None, devices: int) -> None:
    """Print it. Raises UserError, naming the switches that would help, for a run that does not fit.

    Args:
        device: "cuda", "cpu" or "mps" that is planned for, which need not be here if ``given_memory`` says how large it
            is ("80GB").
        devices: that share the batch.
    """
    memory = read_size(given_memory) if given_memory else memory_of(device)
    training = task.config.training
    check_devices(training, devices)
    print("\n".join(described(task, device)), flush=True)
    print("estimating memory on the meta device", file=sys.stderr, flush=True)
    try:
        cost = estimate(task, task.config, device, devices)
    except UserError as reason:
        if given_memory:
            raise
        print(f"memory: not estimated ({reason})")
        return
    print("\n".join(costs(cost, training)), flush=True)
    if not given_memory:  # the device is here
        print(speed(cost, training, device), flush=True)
    room = room_on(device, memory)
    if cost.per_device > room:
        advice = advise(task.config, room, cost, partial(estimate, task, device=device, devices=devices))
        raise UserError(
            f"the run needs {amount(cost.per_device)} a device, and of {amount(memory)} there are "
            f"{amount(room)} for it; {advice}"
        )
    print(f"fits into the {amount(room)} that {amount(memory)} leave for it")


def check_devices(training, devices: int) -> None:
    """Raise UserError unless the batch divides among the devices."""
    if devices < 1:
        raise UserError(f"--devices must be at least 1, not {devices}")
    if training.batch % (devices * training.accumulation):
        fits = [parts for parts in range(1, training.accumulation) if training.batch % (devices * parts) == 0]
        nearest = f"use training.accumulation={fits[-1]}" if fits else f"use a multiple of {devices}"
        raise UserError(
            f"training.batch {training.batch} does not divide among {devices} devices in "
            f"{training.accumulation} micro-batches: {nearest}"
        )


def described(task, device: str) -> list[str]:
    """The run in lines."""
    from scorefield.commands.run import passes_per_iteration

    config, training = task.config, task.config.training
    loss = config.build_loss()
    later = [
        f"from iteration {start} {config.loss_stages[start]}: {passes_per_iteration(one, training):g} passes an image"
        for start, one in config.build_later_losses().items()
    ]
    return [
        f"task {task.name} on {device}, {training.precision}",
        *task.plan(),
        f"loss {config.loss}: {'exact Jacobians' if loss.needs_jacobian else 'no Jacobian'}",
        f"{training.iterations} iterations of {training.batch} images = {training.iterations * training.batch} images, "
        f"{passes_per_iteration(loss, training):g} forward passes an image",
        *later,
    ]


def speed(cost: Estimate, training, device: str) -> str:
    """How fast the device could be at most."""
    from scorefield.cost.speed import flop_peak

    peak, source = flop_peak(device, training.precision)
    seconds = cost.flops / peak
    return (
        f"at most {training.batch / seconds:.3g} images/s, {seconds:.3g} s an iteration, at this device's "
        f"{peak / 1e12:.3g} TFLOP/s ({source}); scorefield bench times it"
    )


def costs(cost: Estimate, training) -> list[str]:
    """Operations and memory in lines."""
    image = cost.flops * cost.devices / training.batch
    whole = f"{'':20}{'a device':>12}{f'all {cost.devices}':>12}" if cost.devices > 1 else f"{'':20}{'a device':>12}"
    rows = {**cost.memory, "sum": cost.per_device}
    columns = (1, cost.devices) if cost.devices > 1 else (1,)
    return [
        f"{image / 1e12:.3g} TFLOP an image, {image * training.batch * training.iterations / 1e18:.3g} EFLOP in all",
        "estimated memory, at its peak in an iteration:",
        whole,
        *(f"  {name:18}" + "".join(f"{amount(n * size):>12}" for n in columns) for name, size in rows.items()),
        *([COMPILED] if training.compile else []),
    ]
