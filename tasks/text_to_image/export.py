"""Export the generator as a diffusers folder that the stock pipeline of its family runs in one step."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from scorefield.errors import UserError
from scorefield.files import write_folder, write_text
from scorefield.generators.one_step import OneStepGenerator
from scorefield.noise import DiscreteVP
from scorefield.teachers.pipeline import PipelineTeacher

USAGE = """# One-step generator

```python
import torch
from diffusers import {kind}

pipe = {kind}.from_pretrained("{name}")
image = pipe({prompt}, num_inference_steps=1, {options}).images[0]
```

The scheduler is set so that stock diffusers' single Euler step is x0 = D(sigma z, sigma) at the generator's own noise
level, sigma = {sigma:.4f}: keep `num_inference_steps=1` and the guidance as above.{folded}
"""
FOLDED = """ The stock pipeline starts from
unit noise: the factor of the generator's start is folded into the network's first layer, and that of its result into
the autoencoder's `scaling_factor`, so exchange neither part for another's."""


def euler_settings(teacher: PipelineTeacher, sigma: float) -> dict[str, Any]:
    """Settings of an EulerDiscreteScheduler whose one step starts at ``sigma`` and returns x0.

    Trailing spacing of one step asks the last training timestep; the betas are cut off after the timestep whose
    sigma is ``sigma``, so that this last one is the generator's.
    """
    process = teacher.process
    assert isinstance(process, DiscreteVP)
    last = int(process.nearest(torch.tensor([sigma])).item())
    cumulative = process.alphas_cumprod().double()[: last + 1]
    alphas = torch.cat([cumulative[:1], cumulative[1:] / cumulative[:-1]])
    form = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}[teacher.prediction]
    return {
        "num_train_timesteps": last + 1,
        "trained_betas": (1 - alphas).tolist(),
        "prediction_type": form,
        "timestep_spacing": "trailing",
    }


def one_step_scheduler(teacher: PipelineTeacher, sigma: float):
    """(scheduler, input factor, output factor) with which the stock pipeline computes D(sigma z, sigma) in one step.

    The factors are 1 where the pipeline itself scales its start noise. Elsewhere the stock step starts at unit noise:
    a flow step of length 1 gives z - v = x0 / t where x0 = t z - t v, and an eps step can give a multiple of
    z - eps = x0 / sigma. The network's input is to be multiplied by the first factor, the result by the second.
    """
    from diffusers import EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler

    process = teacher.process
    if not isinstance(process, DiscreteVP):
        steps = int(teacher.scheduler_settings.get("num_train_timesteps", 1000))
        place = sigma / (1 + sigma)
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=round(steps * place)), place, place
    settings = euler_settings(teacher, sigma)
    if teacher.scales_start:
        return EulerDiscreteScheduler(**settings), 1.0, 1.0
    if teacher.prediction != "eps":
        raise UserError(f"a {teacher.index['_class_name']} of {teacher.prediction} prediction cannot run in one step")
    count = settings["num_train_timesteps"]
    # DiTPipeline steps from the scaled input z / sqrt(1 + s^2), to that minus s eps: proportional to z - eps where
    # s = 1 / sqrt(1 + s^2), so where s^2 is the golden ratio's inverse, as is the cumulative alpha
    golden = (5**0.5 - 1) / 2
    settings["trained_betas"] = [1 - golden ** (1 / count)] * count
    return EulerDiscreteScheduler(**settings), sigma / (1 + sigma**2) ** 0.5 / golden**0.5, sigma / golden**0.5


@contextmanager
def folded(network: Any, layer: str, vae: Any, into: float, out: float) -> Iterator[None]:
    """Within, the network's input is multiplied by ``into`` and the autoencoder's by ``out``."""
    weight, scaling = network.get_submodule(layer).weight, vae.config.scaling_factor
    kept = weight.detach().clone()
    try:
        with torch.no_grad():
            weight.mul_(into)
        vae.register_to_config(scaling_factor=scaling / out)
        yield
    finally:
        with torch.no_grad():
            weight.copy_(kept)
        vae.register_to_config(scaling_factor=scaling)


def components(teacher: PipelineTeacher, network: Any, scheduler) -> dict[str, Any]:
    """Arguments of the stock pipeline's class; parts that no picture needs (a safety checker) are left out."""
    import diffusers

    taken = inspect.signature(getattr(diffusers, teacher.index["_class_name"]).__init__).parameters
    found: dict[str, Any] = {teacher.network_part: network, "scheduler": scheduler}
    for name, value in teacher.index.items():
        if name.startswith("_") or name in found or name not in taken:
            continue
        if not isinstance(value, list):
            found[name] = value  # a setting of the pipeline
        else:
            found[name] = teacher.part(name) if name.startswith(("tokenizer", "text_encoder", "vae")) else None
    if "requires_safety_checker" in taken:
        found["requires_safety_checker"] = False
    return found


def write_pipeline(teacher: PipelineTeacher, generator: OneStepGenerator, out: Path) -> Path:
    """Write the folder, whole or not at all; raises UserError if ``out`` is there and holds something else."""
    import diffusers

    if out.exists() and any(out.iterdir()) and not (out / "model_index.json").exists():
        raise UserError(f"{out} exists and is no pipeline folder: name another with --out")
    network, sigma = generator.denoiser.network, generator.init_sigma
    scheduler, into, result = one_step_scheduler(teacher, sigma)
    kind = teacher.index["_class_name"]
    stock = getattr(diffusers, kind)(**components(teacher, network, scheduler))
    if "id2label" in teacher.index:  # DiTPipeline takes it but does not keep it
        stock.register_to_config(id2label=teacher.index["id2label"])
    usage = USAGE.format(
        kind=kind,
        name=out.name,
        prompt="[207]" if kind == "DiTPipeline" else '"a blue robot, front view"',
        options=", ".join(f"{key}={value!r}" for key, value in teacher.stock_options().items()),
        sigma=sigma,
        folded="" if into == 1 else FOLDED,
    )

    def write(part: Path) -> None:
        with folded(network, teacher.input_layer, teacher.part("vae"), into, result):
            stock.save_pretrained(part)
        write_text(part / "README.md", usage)

    write_folder(out, write)
    return out
