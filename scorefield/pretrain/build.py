"""The whole of ``train-teacher``: pictures and captions in, a diffusers PixArt pipeline folder out."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from scorefield.errors import UserError
from scorefield.files import write_folder
from scorefield.pretrain import autoencoder, transformer
from scorefield.pretrain import judge as judge_stage
from scorefield.pretrain.loop import StageConfig
from scorefield.pretrain.sources import FolderSource, Source, TokenTable, ToyboxSource, load_images
from scorefield.pretrain.transformer import Architecture


@dataclass
class AutoencoderConfig(StageConfig):
    """Autoencoder stage; ``widths`` are the channels per resolution, each step halves the side."""

    latent_channels: int = 4
    widths: list[int] = field(default_factory=lambda: [32, 64, 96, 128])
    kl_weight: float = 1e-3
    init: str = ""  # folder of an autoencoder (diffusers format) to go on from; sets channels and widths


@dataclass
class TeacherStageConfig(StageConfig):
    """Text encoder and transformer stage."""

    caption_dropout: float = 0.1  # share of empty prompts, for classifier-free guidance
    snr_cap: float = 5.0  # min-SNR weighting


@dataclass
class PretrainConfig:
    """Everything that ``train-teacher`` reads."""

    data: str = "toybox"  # "toybox" or a folder of captioned pictures
    images: int = 200_000  # pictures rendered or read
    resolution: int = 64
    wordings: int = 4  # captions a picture (toybox)
    seed: int = 0
    device: str = "auto"
    judge: bool = True  # train the judge too (toybox only: it needs the true attributes)
    until: str = "transformer"  # stop after this stage: judge, autoencoder or transformer
    architecture: Architecture = field(default_factory=Architecture)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    transformer: TeacherStageConfig = field(default_factory=TeacherStageConfig)
    judge_stage: StageConfig = field(default_factory=StageConfig)

    def __post_init__(self) -> None:
        if self.until not in ("judge", "autoencoder", "transformer"):
            raise UserError(f'until "{self.until}" is unknown: use judge, autoencoder or transformer')
        widths, patch = self.autoencoder.widths, self.architecture.patch
        multiple = 2 ** (len(widths) - 1) * patch
        if self.resolution < multiple or self.resolution % multiple:
            near = max(1, round(self.resolution / multiple)) * multiple
            raise UserError(
                f"resolution {self.resolution} must be a multiple of {multiple} (autoencoder.widths halve it "
                f"{len(widths) - 1} times, patches are {patch} wide): {near} is the nearest"
            )
        if self.images < 1:
            raise UserError(f"images must be at least 1, not {self.images}")


def open_source(config: PretrainConfig, device: str) -> Source:
    """The pictures that the config asks for."""
    if config.data == "toybox":
        return ToyboxSource(config.images, config.seed, config.resolution, config.wordings, device)
    return FolderSource(config.data, config.resolution)


def ddpm_schedule() -> dict:
    """PixArt-alpha's noise schedule as diffusers scheduler settings."""
    return {"num_train_timesteps": 1000, "beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}


def train_teacher(config: PretrainConfig, out: Path, say: Callable[[str], None] = print) -> Path:
    """Run the stages that are not done yet and write the pipeline folder ``out``/pipeline.

    Each stage keeps a resumable state in ``out`` and its result in a folder of its own, so that a second call
    goes on where the first was stopped. Returns the folder of the last stage that ``config.until`` allows.
    """
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda"):
        torch.backends.cudnn.benchmark = True  # shapes never change within a stage
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    out.mkdir(parents=True, exist_ok=True)
    source = open_source(config, device)
    count = min(config.images, source.count)
    say(f"reading {count} pictures of {config.data} at {config.resolution} px on {device}")
    images = load_images(source, count, device)

    if config.judge and config.data == "toybox" and not (out / "judge" / "judge.json").exists():
        train_judge(config, images, source, out, device, say)
    if config.until == "judge":
        return out / "judge"
    vae = obtain_autoencoder(config, images, out, device, say)
    if config.until == "autoencoder":
        return out / "vae"
    latents = autoencoder.encode_images(vae, images)
    say(f"latents {tuple(latents[0].shape)}, deviation {latents[1].float().mean():.3f}")
    del images
    return train_transformer(config, vae, latents, source, count, out, device, say)


def train_judge(config: PretrainConfig, images, source, out: Path, device: str, say) -> None:
    """Train the judge and save it to ``out``/judge."""
    from scorefield.data import toybox

    if not isinstance(source, ToyboxSource):
        raise UserError("the judge needs the true attributes of the pictures, which only toybox has")
    names = {"object": list(toybox.OBJECTS), "color": list(toybox.COLORS), "view": list(toybox.VIEWS)}
    attributes = {key: value.to(device) for key, value in source.attributes(0, len(images)).items()}
    judge = judge_stage.train(
        images, attributes, names, config.judge_stage, seed=config.seed, out=out, device=device, say=say
    )
    judge.save(out / "judge")
    count = min(4000, config.images)
    held_out = ToyboxSource(count, toybox.TEST_SEED, config.resolution, 1, device)
    found = judge_stage.accuracy(judge, load_images(held_out, count, device), held_out.attributes(0, count), device)
    say("judge on held-out pictures: " + ", ".join(f"{key} {value:.4f}" for key, value in found.items()))


def obtain_autoencoder(config: PretrainConfig, images, out: Path, device: str, say):
    """The trained autoencoder: from ``out``/vae if it is there, else trained and saved there."""
    from diffusers import AutoencoderKL

    if (out / "vae" / "config.json").exists():
        return AutoencoderKL.from_pretrained(out / "vae").to(device).eval()
    stage = config.autoencoder
    vae = autoencoder.train(
        images,
        stage,
        latent_channels=stage.latent_channels,
        widths=tuple(stage.widths),
        kl_weight=stage.kl_weight,
        init=stage.init,
        seed=config.seed,
        out=out,
        device=device,
        say=say,
    )
    write_folder(out / "vae", vae.to(memory_format=torch.contiguous_format).half().save_pretrained)
    return AutoencoderKL.from_pretrained(out / "vae").to(device).eval()


def train_transformer(config: PretrainConfig, vae, latents, source, count: int, out: Path, device: str, say) -> Path:
    """Train text encoder and transformer, then assemble the pipeline folder."""
    from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, PixArtAlphaPipeline
    from transformers import ByT5Tokenizer

    tokenizer = ByT5Tokenizer(model_max_length=config.architecture.max_tokens)
    table = TokenTable(tokenizer, source.captions(0, count), config.architecture.max_tokens, device)
    stage = config.transformer
    text_encoder, network = transformer.train(
        latents,
        table,
        len(tokenizer),
        DDPMScheduler(**ddpm_schedule()),
        config.architecture,
        stage,
        caption_dropout=stage.caption_dropout,
        snr_cap=stage.snr_cap,
        seed=config.seed,
        out=out,
        device=device,
        say=say,
    )
    pipeline = PixArtAlphaPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder.cpu(),
        vae=vae.cpu().float(),
        transformer=network.cpu(),
        scheduler=DPMSolverMultistepScheduler(**ddpm_schedule(), solver_order=2, algorithm_type="dpmsolver++"),
    )
    for part in (pipeline.vae, pipeline.text_encoder):
        part.half()
    pipeline.vae.register_to_config(_name_or_path="")  # a path of this machine has no place in what is shared
    write_folder(out / "pipeline", pipeline.save_pretrained)
    say(f"wrote {out / 'pipeline'}")
    return out / "pipeline"
