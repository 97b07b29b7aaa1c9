"""Where an iteration's time goes: torch's profiler on one iteration of a preset with random weights.

    python scripts/profile_step.py --config pixart_512 --out runs/profile training.batch=32 training.accumulation=1

Prints, and writes to --out as profile.md, beside trace.json.gz for chrome://tracing: kernels by kind and by name, what
is spent outside the networks (optimizer, clipping, average, random numbers), how long the GPU is busy, the gaps, and
every call in which the host waits. On a CPU the same of operators, to see that it works.
"""

import argparse
import contextlib
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from scorefield.bench import rehearsed
from scorefield.commands.common import build_config, resolve_device
from scorefield.cost.speed import device_name, timed
from scorefield.files import write_text
from scorefield.plugins import load_task
from scorefield.random import Draws
from scorefield.teachers.reduced import SIZES
from scorefield.training import optimizers
from scorefield.training.trainer import Trainer

FORWARD, BACKWARD = "networks, forward", "backward pass"
KINDS = [  # of kernels, by their names; the first that fits
    ("attention", r"flash|fmha|attention|sdpa|efficient"),
    ("optimizer and average (foreach, fused)", r"multi_tensor|fused_adam|foreach|lerp"),
    ("matrix products", r"gemm|nvjet|cutlass|xmma|cublas|_mm|::mm|matmul|addmm|linear|bmm|splitk"),
    ("convolutions", r"conv|implicit|wgrad|dgrad|nchw|nhwc"),
    ("copies and casts", r"copy|memcpy|_to_|cat"),
    ("fill", r"fill|memset|zero"),
    ("normalisation", r"norm|welford"),
    ("fused by the compiler", r"triton"),
    ("reductions", r"reduce|sum|softmax"),
    ("elementwise", r"elementwise|vectorized|unrolled|mul|add|gelu|silu|where|pow|div|sub"),
]
WAITS = re.compile(r"Synchronize|^cudaMemcpy$|_local_scalar_dense|aten::nonzero|aten::item|Memcpy DtoH")


@contextlib.contextmanager
def labelled(owner: Any, name: str, label: str) -> Iterator[None]:
    """Calls of ``owner.name`` are ranges of the profile within."""
    call, own = getattr(owner, name), name in vars(owner)

    def ranged(*given: Any, **more: Any) -> Any:
        with record_function(label):
            return call(*given, **more)

    setattr(owner, name, ranged)
    try:
        yield
    finally:
        setattr(owner, name, call) if own else delattr(owner, name)


@contextlib.contextmanager
def all_labelled(trainer: Trainer) -> Iterator[None]:
    """Every part of an iteration that the report tells apart."""
    networks = {id(n): n for n in (trainer.teacher.denoiser, trainer.online, getattr(trainer.generator, "denoiser", 0))}
    parts = [(network, "forward", FORWARD) for network in networks.values() if network]
    parts += [(optimizers, "step", "optimizer")]
    parts += [(torch.nn.utils, name, "gradient norm, clipping") for name in ("get_total_norm", "clip_grads_with_norm_")]
    parts += [(trainer.average, "update", "average"), (trainer.average, "before_step", "average")]
    parts += [(Draws, name, "random numbers") for name in ("__init__", "normal", "uniform", "bits")]
    parts += [
        (trainer.evaluations, "point", "noising (and inversion)"),
        (trainer, "_mean", "loss"),
        (trainer, "_note", "figures"),
    ]
    with contextlib.ExitStack() as stack:
        for part in parts:
            stack.enter_context(labelled(*part))
        yield


def kind_of(name: str) -> str:
    """What a kernel or operator does, by its name."""
    return next((kind for kind, pattern in KINDS if re.search(pattern, name, re.IGNORECASE)), "other")


def spent(event: Any, on_gpu: bool) -> float:
    """Microseconds of kernels under an event, or of the CPU's own time."""
    return event.device_time_total if on_gpu else event.cpu_time_total


def by_range(events: list[Any], labels: set[str], on_gpu: bool) -> Counter[str]:
    """Microseconds by label: the outermost range counts, and the autograd engine's calls as the backward pass."""
    found: Counter[str] = Counter()

    def label(event: Any) -> str:
        engine = event.name.startswith("autograd::engine::evaluate_function")
        return BACKWARD if engine else event.name if event.name in labels else ""

    for event in events:
        if event.device_type != DeviceType.CPU or not (name := label(event)):
            continue
        above = event.cpu_parent
        while above is not None and not label(above):
            above = above.cpu_parent
        if above is None:
            found[name] += spent(event, on_gpu)
    return found


def busy(kernels: list[Any]) -> tuple[float, float, list[float]]:
    """(microseconds in which some kernel runs, from first to last, gaps between them, falling)."""
    spans = sorted((k.time_range.start, k.time_range.end) for k in kernels)
    at, working, gaps = spans[0][0], 0.0, []
    for start, end in spans:
        if start > at:
            gaps.append(start - at)
        working += max(0.0, end - max(at, start))
        at = max(at, end)
    return working, at - spans[0][0], sorted(gaps, reverse=True)


def table(head: str, rows: list[tuple[str, float, int]], whole: float) -> list[str]:
    """Lines of markdown: name, milliseconds, share of ``whole``, calls."""
    lines = [f"| {head} | ms | share | calls |", "|---|---:|---:|---:|"]
    return [
        *lines,
        *(f"| {name} | {us / 1e3:.2f} | {us / whole:.1%} | {calls or ''} |" for name, us, calls in rows),
        "",
    ]


def report(prof: profile, labels: set[str], seconds: float, title: str) -> list[str]:
    """The whole page."""
    events = list(prof.events())
    kernels = [e for e in events if e.device_type == DeviceType.CUDA and e.name not in labels]
    kernels = [
        e for e in kernels if not getattr(e, "is_user_annotation", False) and "#" not in e.name
    ]  # torch's ranges
    on_gpu = bool(kernels)
    times, calls = Counter[str](), Counter[str]()
    for event in kernels if on_gpu else [e for e in events if e.device_type == DeviceType.CPU and e.name not in labels]:
        times[event.name] += event.time_range.elapsed_us() if on_gpu else event.self_cpu_time_total
        calls[event.name] += 1
    whole = sum(times.values())
    kinds, kind_calls = Counter[str](), Counter[str]()
    for name, value in times.items():
        kinds[kind_of(name)] += value
        kind_calls[kind_of(name)] += calls[name]
    ranges = by_range(events, labels, on_gpu)
    ranges["the rest (masks, guidance, unlabelled)"] = max(0.0, whole - sum(ranges.values()))
    lines = [f"# {title}", "", f"An iteration takes {seconds * 1e3:.1f} ms without the profiler."]
    if on_gpu:
        working, span, gaps = busy(kernels)
        longest = ", ".join(f"{gap / 1e3:.2f}" for gap in gaps[:5])
        lines += [
            f"Kernels run {working / 1e3:.1f} ms of the {span / 1e3:.1f} ms from the first to the last: "
            f"busy {working / span:.1%}. {len(kernels)} kernels; {len(gaps)} gaps, the longest {longest} ms."
        ]
    waits = Counter(e.name for e in events if WAITS.search(e.name))
    waited = ", ".join(f"{count} x {name}" for name, count in waits.most_common()) or "none"
    lines += [f"Calls in which the host may wait (one cudaDeviceSynchronize is the profiler's own): {waited}.", ""]
    outside = [(name, value) for name, value in ranges.most_common() if name not in (FORWARD, BACKWARD)]
    lines += ["Largest beyond the passes through the networks: "]
    lines[-1] += "; ".join(f"{name} {value / 1e3:.2f} ms ({value / whole:.1%})" for name, value in outside[:3]) + "."
    inside = [(k, v) for k, v in kinds.most_common() if k not in ("matrix products", "attention", "convolutions")]
    lines += ["Largest kinds beside matrix products, convolutions and attention, wherever they are: "]
    lines[-1] += "; ".join(f"{name} {value / 1e3:.2f} ms ({value / whole:.1%})" for name, value in inside[:3]) + "."
    lines += ["", *table("part", [(name, value, 0) for name, value in ranges.most_common()], whole)]
    lines += table("kind", [(name, value, kind_calls[name]) for name, value in kinds.most_common()], whole)
    top = [(f"`{name[:110]}`", value, calls[name]) for name, value in times.most_common(25)]
    return lines + table("kernel" if on_gpu else "operator", top, whole)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="text_to_image")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--reduced", action="store_true", help="small networks, as in scorefield bench")
    parser.add_argument("--out", type=Path, required=True, help="folder")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    arguments = parser.parse_args()
    task_class = load_task(arguments.task)
    small = [f"{key}={value}" for key, value in SIZES.items()] if arguments.reduced else []
    config = build_config(task_class, arguments.config, [*small, *arguments.overrides])
    device = resolve_device(config.training.device)
    trainer, _ = rehearsed(task_class, config, device, arguments.reduced)
    first = config.training.online_warmup
    call: Callable[[int], None] = trainer.iteration
    for k in range(2):
        call(first + k)
    seconds = statistics.median(timed(partial(call, first + 2 + k), device)[0] for k in range(3))
    on_gpu = device.startswith("cuda")
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with all_labelled(trainer), profile(activities=activities) as prof:
        call(first + 5)
        if on_gpu:
            torch.cuda.synchronize()
    title = " ".join([arguments.config.stem, *small, *arguments.overrides, "on", device_name() if on_gpu else device])
    labels = {FORWARD, "optimizer", "gradient norm, clipping", "average", "random numbers"}
    labels |= {"noising (and inversion)", "loss", "figures"}
    text = "\n".join(report(prof, labels, seconds, title))
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_text(arguments.out / "profile.md", text)
    prof.export_chrome_trace(str(arguments.out / "trace.json.gz"))
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
