"""Train a class-conditional EDM network in pixel space (Karras et al. 2022, arXiv:2206.00364)."""

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scorefield import networks
from scorefield.errors import UserError
from scorefield.importer.rehearsal import open_located
from scorefield.pretrain import labelled_run
from scorefield.pretrain.augment import AUGMENT_LABELS, flip_some, warp_some
from scorefield.pretrain.labelled import LabelledImages
from scorefield.pretrain.labelled_run import LabelledConfig
from scorefield.pretrain.loop import StageBase, rate_at
from scorefield.pretrain.session import HalfLifeAverage, Session
from scorefield.teachers.edm import EDMDenoiser
from scorefield.teachers.sampling import heun


@dataclass
class UNetConfig:
    """A DDPM++ network (SongUNet) behind EDM's preconditioning."""

    model_channels: int = 128
    channel_mult: list[int] = field(default_factory=lambda: [2, 2, 2])
    channel_mult_emb: int = 4
    num_blocks: int = 4
    attn_resolutions: list[int] = field(default_factory=lambda: [16])
    dropout: float = 0.13
    label_dropout: float = 0.0  # share of labels zeroed, for classifier-free guidance
    sigma_data: float = 0.5


@dataclass
class EDMStage(StageBase):
    """EDM's training (table 1 and appendix F.3), with a cosine instead of a constant learning rate by default."""

    batch: int = 512
    clip: float = 1.0  # gradient norm
    ema_half_life_images: float = 500_000
    ema_rampup: float = 0.05
    p_mean: float = -1.2  # of ln sigma
    p_std: float = 1.2
    flip: bool = False  # mirror half of the pictures
    augment: float = 0.0  # probability of each non-leaky warp (EDM: 0.12 on CIFAR-10)


@dataclass
class EDMTrainConfig(LabelledConfig):
    """Everything that ``train-edm`` reads."""

    network: UNetConfig = field(default_factory=UNetConfig)
    training: EDMStage = field(default_factory=EDMStage)
    sampler_steps: int = 18  # of the Heun sampler behind the figures
    init: str = ""  # a stored EDM network to go on from, with a fresh optimizer; its sizes stand in for ``network``


def make_network(settings: UNetConfig, resolution: int, classes: int, augmented: bool) -> nn.Module:
    """A fresh EDMPrecond for colour pictures."""
    return networks.build(
        "EDMPrecond",
        {
            "img_resolution": resolution,
            "img_channels": 3,
            "label_dim": classes,
            "model_type": "SongUNet",
            "augment_dim": AUGMENT_LABELS if augmented else 0,
            **asdict(settings),
        },
    )


def draw_sigma(batch: int, p_mean: float, p_std: float, generator: torch.Generator) -> Tensor:
    """sigma [B], log-normal."""
    return (p_mean + p_std * torch.randn(batch, generator=generator, device=generator.device)).exp()


def edm_loss(denoised: Tensor, x0: Tensor, sigma: Tensor, sigma_data: float) -> Tensor:
    """[B]: (sigma^2 + sigma_data^2) / (sigma sigma_data)^2 times the mean squared error of a sample (equation 2).

    Its expectation over x0 and noise is least where ``denoised`` is E[x0 | x_t].
    """
    weight = (sigma.square() + sigma_data**2) / (sigma * sigma_data).square()
    return weight * (denoised - x0).square().flatten(1).mean(1)


def train(
    data: LabelledImages,
    network: nn.Module,
    config: EDMStage,
    *,
    seed: int,
    out: Path,
    device: str,
    say: Callable[[str], None] = print,
    look: Callable[[nn.Module, int], None] | None = None,
    look_minutes: float = 2.0,
) -> tuple[nn.Module, Session]:
    """Train an EDMPrecond ``network`` in place; returns its moving average and the session.

    Args:
        data: on ``device``; pictures stay uint8 there.
        out: receives state-edm.pt, from which an interrupted training goes on.
        look: called with the average and the images seen, every ``look_minutes``.

    Raises:
        UserError: the loss is not finite.
    """
    sigma_data = float(network.sigma_data)  # type: ignore[arg-type]  # a plain number
    network = network.to(device=torch.device(device), memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    average = copy.deepcopy(network).eval().requires_grad_(False)
    ema = HalfLifeAverage(network, average, config.ema_half_life_images, config.ema_rampup)
    parameters = list(network.parameters())
    optimizer = torch.optim.Adam(parameters, lr=config.learning_rate, fused=device.startswith("cuda"))
    forward = torch.compile(network) if config.compile else network
    table = torch.eye(data.classes, device=device)

    def gather() -> dict:
        return {
            "network": network.state_dict(),
            "average": average.state_dict(),
            "optimizer": optimizer.state_dict(),
        }

    def restore(state: dict) -> None:
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])

    session = Session("edm", config, seed=seed, out=out, device=device, gather=gather, restore=restore, say=say)
    for generator in session.steps():
        for group in optimizer.param_groups:
            group["lr"] = rate_at(config, session.step, session.done)
        rows = torch.randint(len(data), (config.batch,), generator=generator, device=device)
        x0 = data.images[rows].to(memory_format=torch.channels_last).float() / 127.5 - 1
        extra = {}
        if config.flip:
            x0 = flip_some(x0, generator)
        if config.augment:
            x0, extra["augment_labels"] = warp_some(x0, config.augment, generator)
        sigma = draw_sigma(config.batch, config.p_mean, config.p_std, generator)
        eps = torch.empty_like(x0).normal_(generator=generator)
        x_t = x0 + sigma.view(-1, 1, 1, 1) * eps
        with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=config.precision == "bf16"):
            denoised = forward(x_t, sigma, table[data.labels[rows]], **extra)
        loss = edm_loss(denoised.float(), x0, sigma, sigma_data).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, config.clip)
        optimizer.step()
        ema.update(config.batch, session.images + config.batch)
        session.note({"loss": loss.detach(), "gradient": norm})
        if look is not None and session.due("look", look_minutes):
            look(average, session.images)
    return average, session


def open_network(config: EDMTrainConfig, classes: int) -> nn.Module:
    """A fresh network, or that of ``config.init`` in float32.

    Raises:
        UserError: what is stored there draws other pictures, or is no EDM network.
    """
    augmented = config.training.augment > 0
    if not config.init:
        return make_network(config.network, config.resolution, classes, augmented)
    network = open_located(config.init).float()
    found = EDMDenoiser(network)
    if found.shape != (3, config.resolution, config.resolution) or found.label_dim != classes:
        known = f"{found.label_dim or 'no'} classes of pictures {list(found.shape)}"
        raise UserError(
            f"init: {config.init} knows {known}, and the data have {classes} of [3, {config.resolution}, "
            f"{config.resolution}]"
        )
    if augmented and not found.tells_augmentation:
        raise UserError(f"init: {config.init} was not trained to be told of augmentation: use training.augment=0")
    return network.requires_grad_(True)


def sampler(network: nn.Module, device: str, steps: int, batch: int = 1024) -> Callable[[Tensor, int], Tensor]:
    """From labels int64 [B] and a seed to pictures [B, 3, R, R], by the deterministic Heun sampler."""
    denoiser: Any = EDMDenoiser(network.to(device)).eval()

    def sample(labels: Tensor, seed: int) -> Tensor:
        generator = torch.Generator(device).manual_seed(seed)
        z = torch.randn((len(labels), *denoiser.shape), generator=generator, device=device)
        return heun(denoiser, {"label": labels}, z, steps=steps, batch=batch)

    return sample


def train_edm(config: EDMTrainConfig, out: Path, say: Callable[[str], None] = print) -> Path:
    """The whole of ``train-edm``: pictures in, ``out``/teacher.safetensors and .json, samples and figures out.

    A second call goes on where the first was stopped. Returns the path for ``EDMDenoiser.load``.

    Raises:
        UserError: data, judge or configuration do not fit.
    """
    if config.sampler_steps < 2:
        raise UserError(f"sampler_steps must be at least 2, not {config.sampler_steps}")
    torch.manual_seed(config.seed)
    stage = config.training
    ready = labelled_run.prepare(config, out, say)
    torch.manual_seed(config.seed)  # the network starts alike whether or not a judge was trained before it
    classes = ready.train.classes
    network = open_network(config, classes)
    count = sum(p.numel() for p in network.parameters())
    say(f"EDM network with {count} parameters")

    def look(average: nn.Module, images: int) -> None:
        sample = sampler(average, ready.device, config.sampler_steps)
        pictures = sample(labelled_run.grid_labels(classes, ready.device), config.seed)
        labelled_run.write_grid(pictures, classes, out / "samples" / f"edm-{images // 1000:06d}k.png")

    settings: dict[str, Any] = {"seed": config.seed, "out": out, "device": ready.device, "say": say}
    average, session = train(ready.train, network, stage, look=look, look_minutes=config.sample_minutes, **settings)
    saved = labelled_run.store(average, out / "teacher", config.storage)
    look(saved.to(ready.device), session.images)
    found = labelled_run.measure(ready, config, sampler(saved, ready.device, config.sampler_steps), "teacher", out, say)
    facts = {"data": config.data, "parameters": count, "images": session.images, "seconds": round(session.seconds)}
    facts |= {
        "samples": min(config.samples, len(ready.train)),
        "sampler_steps": config.sampler_steps,
        "classes": ready.train.names,
    }
    labelled_run.write_figures(out, "teacher-figures", facts, found, say)
    return out / "teacher"
