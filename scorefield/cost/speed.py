"""What a device can compute at most, from its data sheet or by trial."""

import time
from collections.abc import Callable

import torch

PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "B200": 2250e12}  # dense bf16 FLOP/s of the data sheets
SIDES = {"cuda": 8192, "cpu": 1024}  # of the matrices whose product tells it where no data sheet does
TRIALS = 4


def flop_peak(device: str, precision: str) -> tuple[float, str]:
    """(FLOP/s, where that is from): the data sheet's for bf16, else what a product of two large matrices reaches."""
    kind = device.split(":")[0]
    if kind == "cuda" and precision == "bf16":
        for name, value in PEAKS.items():
            if name in device_name():
                return value, "data sheet"
    dtype, side = torch.bfloat16 if precision == "bf16" else torch.float32, SIDES.get(kind, 4096)
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    seconds = min(timed(lambda: a @ b, device)[0] for _ in range(TRIALS))
    return 2 * side**3 / seconds, f"matrix product of {side}"


def device_name() -> str:
    """What the GPU calls itself."""
    return torch.cuda.get_device_name()


def timed(call: Callable[[], object], device: str) -> tuple[float, float]:
    """Seconds of one call, the device waited for, and seconds of this process's processors."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    start, busy = time.perf_counter(), time.process_time()
    call()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start, time.process_time() - busy
