"""Stock schedulers with which a diffusers pipeline computes a generator's own one step or few steps."""

from dataclasses import dataclass, field
from typing import Any

import torch

from scorefield.errors import UserError
from scorefield.generators.few_step import FewStepGenerator
from scorefield.generators.one_step import OneStepGenerator
from scorefield.noise import DiscreteVP
from scorefield.teachers.pipeline import PipelineTeacher

FORMS = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}


@dataclass
class Schedule:
    """A scheduler and how the stock pipeline is called with it.

    Attributes:
        scheduler: of diffusers.
        options: further arguments of the call.
        start: factor of the start noise, which is then handed over as ``latents``; None where the pipeline draws it.
        into, out: factors to be folded into the network's first layer and into the autoencoder's scale.
        levels: the generator's own noise levels, falling.
    """

    scheduler: Any
    options: dict[str, Any] = field(default_factory=dict)
    start: float | None = None
    into: float = 1.0
    out: float = 1.0
    levels: list[float] = field(default_factory=list)


def steps_of(generator: OneStepGenerator) -> list[float]:
    """Noise levels of the generator's steps, falling; raises UserError for a kind that no stock scheduler computes."""
    if type(generator) is OneStepGenerator:
        return [generator.init_sigma]
    if type(generator) is FewStepGenerator:
        return list(generator.sigmas)
    raise UserError(
        f"stock diffusers runs no {type(generator).__name__}: only one_step and few_step of a diffusers pipeline are "
        "exported"
    )


def schedule_for(teacher: PipelineTeacher, generator: OneStepGenerator, fold: bool = True) -> Schedule:
    """How the stock pipeline of ``teacher``'s family makes the generator's pictures.

    ``fold`` allows factors within the weights, so that the pipeline is called without ``latents``: not for a LoRA,
    which is laid on weights that are somebody else's.
    """
    levels = steps_of(generator)
    found = of_levels(teacher, levels, fold)
    found.levels = levels
    return found


def of_levels(teacher: PipelineTeacher, levels: list[float], fold: bool) -> Schedule:
    """The schedule for falling noise levels."""
    if len(levels) == 1:
        single = one_step(teacher, levels[0])
        if fold or single.into == single.out == 1:
            return single
    if not teacher.takes_latents:
        raise UserError(
            f"{teacher.index['_class_name']} takes no start noise, so that it runs only a whole network in one step"
        )
    if isinstance(teacher.process, DiscreteVP):
        return discrete_steps(teacher, levels)
    return flow_steps(teacher, levels)


def one_step(teacher: PipelineTeacher, sigma: float) -> Schedule:
    """One step with which the stock pipeline computes D(sigma z, sigma) from start noise that it draws itself.

    The factors are 1 where the pipeline itself scales its start noise. Elsewhere the stock step starts at unit noise:
    a flow step of length 1 gives z - v = x0 / t where x0 = t z - t v, and an eps step can give a multiple of
    z - eps = x0 / sigma. The network's input is to be multiplied by the first factor, the result by the second.
    """
    from diffusers import EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler

    process, told = teacher.process, {"num_inference_steps": 1}
    if not isinstance(process, DiscreteVP):
        place = sigma / (1 + sigma)
        scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=round(flow_timesteps(teacher) * place))
        return Schedule(scheduler, told, into=place, out=place)
    settings = cut_betas(teacher, sigma) | {"timestep_spacing": "trailing"}
    if teacher.scales_start:
        return Schedule(EulerDiscreteScheduler(**settings), told)
    if teacher.prediction != "eps":
        raise UserError(f"a {teacher.index['_class_name']} of {teacher.prediction} prediction cannot run in one step")
    count = settings["num_train_timesteps"]
    # DiTPipeline steps from the scaled input z / sqrt(1 + s^2), to that minus s eps: proportional to z - eps where
    # s = 1 / sqrt(1 + s^2), so where s^2 is the golden ratio's inverse, as is the cumulative alpha
    golden = (5**0.5 - 1) / 2
    settings["trained_betas"] = [1 - golden ** (1 / count)] * count
    into, out = sigma / (1 + sigma**2) ** 0.5 / golden**0.5, sigma / golden**0.5
    return Schedule(EulerDiscreteScheduler(**settings), told, into=into, out=out)


def cut_betas(teacher: PipelineTeacher, sigma: float) -> dict[str, Any]:
    """Settings of a discrete scheduler whose last training timestep is the one whose sigma is ``sigma``.

    Trailing spacing of one step asks the last timestep: the betas are cut off after the generator's.
    """
    process = teacher.process
    assert isinstance(process, DiscreteVP)
    last = int(process.nearest(torch.tensor([sigma])).item())
    cumulative = process.alphas_cumprod().double()[: last + 1]
    alphas = torch.cat([cumulative[:1], cumulative[1:] / cumulative[:-1]])
    return {
        "num_train_timesteps": last + 1,
        "trained_betas": (1 - alphas).tolist(),
        "prediction_type": FORMS[teacher.prediction],
    }


def discrete_steps(teacher: PipelineTeacher, levels: list[float]) -> Schedule:
    """Few steps of an eps, v or x0 network: noised to the next level and denoised is multistep consistency sampling.

    LCMScheduler mixes a share c_skip of its input into each result, for the sake of a boundary condition; at a
    timestep scaling of 1e4 it is below 1e-8 from timestep 1 on.
    """
    from diffusers import LCMScheduler

    process = teacher.process
    assert isinstance(process, DiscreteVP)
    places = [int(process.nearest(torch.tensor([sigma])).item()) for sigma in levels]
    if places[-1] < 1 or len(set(places)) < len(places):
        raise UserError(
            f"the generator's noise levels are the teacher's timesteps {places}, and stock diffusers needs different "
            "ones above 0"
        )
    settings = cut_betas(teacher, levels[0])
    scheduler = LCMScheduler(
        **settings,
        original_inference_steps=settings["num_train_timesteps"],
        timestep_scaling=1e4,
        clip_sample=False,
    )
    start = (1 - process.alphas_cumprod()[places[0]]).sqrt().item()
    return Schedule(scheduler, {"timesteps": places}, start=start)


def flow_steps(teacher: PipelineTeacher, levels: list[float]) -> Schedule:
    """One or few steps of a flow network: x0 = x - t v, noised again to the next t."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    places = [sigma / (1 + sigma) for sigma in levels]
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=flow_timesteps(teacher), stochastic_sampling=True)
    return Schedule(scheduler, {"sigmas": [round(place, 9) for place in places]}, start=places[0])


def flow_timesteps(teacher: PipelineTeacher) -> int:
    return int(teacher.scheduler_settings.get("num_train_timesteps", 1000))
