"""Diffusers pipelines as teachers: what all families share. A family is a file with a subclass of ``PipelineTeacher``.

Which classes the parts have, what the network predicts, its noise process and the autoencoder's scale and shift are
read from the pipeline's own files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from scorefield import resources
from scorefield.denoiser import Condition, Denoiser
from scorefield.errors import UserError
from scorefield.noise import DiscreteVP
from scorefield.teachers import hub
from scorefield.teachers.base import Teacher
from scorefield.teachers.native import NativeDenoiser, process_of

PIXELS = 2**22  # decoded or encoded at once
CLIP_TOKENS = 77  # of every CLIP text encoder that was trained
STOCHASTIC = ("DDPMScheduler", "DDPMParallelScheduler", "EulerAncestralDiscreteScheduler", "LCMScheduler")


@dataclass(eq=False)
class PipelineTeacher(Teacher):
    """The parts of a pipeline folder, each loaded when it is first needed.

    Attributes:
        path: an asset's name, a local folder or a hub id.
        device: where the networks go. dtype: of the denoising network's weights.
        max_tokens: prompts are cut there, except by CLIP encoders, whose length is their tokenizer's.
        negative_prompt: what guidance leads away from; "" as the pipeline's default.
        resolution: of the pictures, in pixels; 0: what the network was made for.
        scheduler: class of the scheduler that samples; "": the pipeline's own (a stochastic one: DPM-Solver++).
        variant: of the weight files ("fp16"). text_dtype: of the text encoders.

    Class attributes of a family: ``pipelines``, the classes in model_index.json that it reads; ``network_part``, where
    the denoising network lies; ``input_layer``, its first layer, which is linear; ``scales_start``, whether the stock
    pipeline multiplies start noise by the scheduler's ``init_noise_sigma``; ``takes_latents``, whether it is called
    with start noise; ``kohya``, the layout in ``scorefield.export.kohya`` of its LoRA, "" for none; ``denoiser_class``.
    """

    pipelines: ClassVar[tuple[str, ...]] = ()
    network_part: ClassVar[str] = "transformer"
    input_layer: ClassVar[str] = "pos_embed.proj"
    scales_start: ClassVar[bool] = True
    takes_latents: ClassVar[bool] = True
    kohya: ClassVar[str] = ""
    denoiser_class: ClassVar[type[NativeDenoiser]] = NativeDenoiser

    path: str
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    max_tokens: int = 120
    negative_prompt: str = ""
    resolution: int = 0
    scheduler: str = ""
    variant: str = ""
    text_dtype: str = "float32"

    def __post_init__(self) -> None:
        self.path = folder_or_id(self.path)
        if self.text_dtype not in ("float32", "bfloat16", "float16"):
            raise UserError(f'teacher.options.text_dtype "{self.text_dtype}" is none of float32, bfloat16, float16')
        self._parts: dict[str, Any] = {}
        self._null: Condition | None = None
        self.index = pipeline_index(self.path)
        for part in (self.network_part, *self.index):
            if told := hub.without_variant(self.path, part, self.variant):
                raise UserError(told)
        self.scheduler_settings = hub.read_settings(self.path, "scheduler", "scheduler_config.json")
        self.process, self.prediction = process_of(self.scheduler_settings)
        self.sigma_min, self.sigma_max = self.process.sigma_min, self.process.sigma_max

    # ------------------------------------------------------------------ parts

    def settings(self, part: str) -> dict[str, Any]:
        """config.json of a part."""
        return hub.read_settings(self.path, part, "config.json")

    def class_of(self, part: str):
        """The class that model_index.json names for a part; None where the pipeline goes without it."""
        import importlib

        library, name = self.index.get(part) or (None, None)
        if name is None:
            return None
        found = getattr(importlib.import_module(str(library)), name, None) if library in LIBRARIES else None
        if found is None:
            raise UserError(f"{part} of {self.path} is a {library}.{name}, which the installed libraries do not have")
        return found

    def part(self, name: str):
        """Tokenizer, text encoder or autoencoder, loaded once; frozen, in evaluation mode; None if there is none."""
        if name not in self._parts:
            loader = self.class_of(name)
            if loader is None or name.startswith("tokenizer"):
                self._parts[name] = loader and hub.load(loader, self.path, name)
            else:
                dtype = getattr(torch, self.text_dtype) if name.startswith("text_encoder") else torch.float32
                module = hub.load(
                    loader, self.path, name, torch_dtype=dtype, variant=self.variant, use_safetensors=True
                )
                self._parts[name] = module.to(self.device).eval().requires_grad_(False)
        part = self._parts[name]
        if name == "vae" and part is not None and part.device.type != torch.device(self.device).type:
            part.to(self.device)  # it was resting
        return part

    def rest_decoder(self) -> None:
        if (vae := self._parts.get("vae")) is not None:
            vae.to("cpu")

    def release_text_encoder(self) -> None:
        """Drop the text encoders from memory; ``encode`` loads them again."""
        self._parts = {name: part for name, part in self._parts.items() if not name.startswith("text_encoder")}

    # ------------------------------------------------------------------ network

    def denoiser(self, null: bool = True, device: str = "") -> NativeDenoiser:
        """A fresh copy of the network as a denoiser, on ``device`` if that is not the pipeline's; ``null`` encodes the
        empty (or negative) prompt for guidance."""
        loader = self.class_of(self.network_part)
        network = hub.load(
            loader, self.path, self.network_part, torch_dtype=self.dtype, variant=self.variant, use_safetensors=True
        )
        if null and self._null is None:
            self.keep_null(self.null())
        return self.wrap(network, self._null if null else None).to(device or self.device).eval()

    def wrap(self, network, null: Condition | None = None) -> NativeDenoiser:
        """A network of this family as a denoiser."""
        steps = int(self.scheduler_settings.get("num_train_timesteps", 1000))
        return self.denoiser_class(network, self.process, self.prediction, null, steps)

    def random_denoiser(self) -> NativeDenoiser:
        """A network of the configured size with random weights, for timing; only configuration files are read."""
        with torch.device(self.device):  # on "meta" nothing is allocated, whatever the size
            network = self.class_of(self.network_part).from_config(self.settings(self.network_part))
        network = torch.nn.Module.to(network, self.dtype)  # diffusers' own warns of nothing
        return self.wrap(network, self.random_condition(1)).to(self.device).eval()

    def random_autoencoder(self) -> nn.Module:
        """Let the autoencoder be one of the configured size with random weights, and return it."""
        if (kind := self.class_of("vae")) is None:
            raise UserError(f"the autoencoder of {self.path} is not known here: give teacher.path, a local folder")
        with torch.device(self.device):
            network = kind.from_config(self.settings("vae"))
        self._parts["vae"] = network.eval().requires_grad_(False)
        return network

    def layers(self) -> list[str]:
        with torch.device("meta"):
            network = self.class_of(self.network_part).from_config(self.settings(self.network_part))
        return [name for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]

    def random_condition(self, count: int) -> Condition:
        """A condition of ``count`` made-up prompts, of the size that real ones have at most."""
        settings = self.settings(self.network_part)
        width = (
            settings.get("caption_channels") or settings.get("joint_attention_dim") or settings["cross_attention_dim"]
        )
        text = torch.randn(count, self.text_length(), width, device=self.device)
        made = {"text": text, "text_mask": everything(text)}
        pooled = settings.get("pooled_projection_dim")
        if projected := settings.get("projection_class_embeddings_input_dim"):
            pooled = projected - 6 * settings["addition_time_embed_dim"]
        return made | ({"pooled": torch.randn(count, pooled, device=self.device)} if pooled else {})

    def text_length(self) -> int:
        """Tokens of a condition, at most."""
        return self.max_tokens

    def null(self) -> Condition:
        """What guidance leads away from, a batch of one."""
        return self.encode([self.negative_prompt])

    def keep_null(self, null: Condition) -> None:
        """Let every further copy of the denoiser have this empty prompt, which is then not encoded again."""
        self._null = null

    def compression(self) -> int:
        """Pixels per latent, one way."""
        return 2 ** (len(self.settings("vae")["block_out_channels"]) - 1)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) that the network was made for, or of the asked resolution."""
        settings = self.settings(self.network_part)
        size = self.resolution // self.compression() if self.resolution else settings["sample_size"]
        return settings["in_channels"], size, size

    def nearest_sigma(self, sigma: float) -> float:
        if isinstance(self.process, DiscreteVP):
            return self.process.ve_sigma(self.process.nearest(torch.tensor([sigma]))).item()
        steps = int(self.scheduler_settings.get("num_train_timesteps", 1000))
        step = min(max(round(steps * sigma / (1 + sigma)), 1), steps - 1)  # the last one is pure noise
        return step / (steps - step)

    def stock_options(self) -> dict[str, Any]:
        """Arguments with which the stock pipeline makes this adapter's unguided pictures."""
        size = self.compression() * self.latent_shape[1]
        return {"guidance_scale": 1.0} | ({"height": size, "width": size} if self.resolution else {})

    def stock_latents(self) -> tuple[int, ...]:
        """Shape of one sample as the stock pipeline takes it for ``latents``."""
        return self.latent_shape

    # ------------------------------------------------------------------ text

    def text_key(self) -> list[Any]:
        """Encoders and tokenizers by what they hold, so that a copy at another place is the same one."""
        from scorefield.prompts import fingerprint

        key: list[Any] = [type(self).__name__]
        for name in sorted(name for name in self.index if name.startswith(("text_encoder", "tokenizer"))):
            if (part := self.part(name)) is not None:
                of = fingerprint.of_tokenizer if name.startswith("tokenizer") else fingerprint.of_module
                key.append(f"{type(part).__name__} {of(part)}")
        return [*key, f"{self.max_tokens} tokens", self.text_dtype]

    def cut(self, prompt: str) -> str:
        return cut_by(self.part("tokenizer"), prompt, self.max_tokens)

    def unread(self, prompt: str) -> list[str]:
        parts = [self.part(name) for name in self.index if name.startswith("tokenizer")]
        return unread_by([tokenizer for tokenizer in parts if tokenizer is not None], prompt)

    # ------------------------------------------------------------------ pictures

    def _scale(self) -> tuple[Tensor | float, Tensor | float]:
        """(factor, offset) of raw autoencoder latents: raw = latents * factor + offset."""
        config = self.part("vae").config
        factor, shift = 1 / config.scaling_factor, getattr(config, "shift_factor", None) or 0.0
        mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
        if mean is None or std is None:
            return factor, shift
        column = (1, -1, 1, 1)
        made = (torch.tensor(value, device=self.device).view(column) for value in (std, mean))
        spread, offset = made
        return spread * factor, offset

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Images [N, 3, H, W] in [-1, 1] of latents [N, C, h, w] as the denoiser gives them."""
        return self.decode_with_graph(latents)

    def decode_with_graph(self, latents: Tensor) -> Tensor:
        factor, offset = self._scale()
        side = self.compression() * latents.shape[-1]
        batch = min(64, max(1, PIXELS // side**2))
        vae = self.part("vae")
        parts = [vae.decode(part * factor + offset, return_dict=False)[0] for part in latents.float().split(batch)]
        return torch.cat(parts).clamp(-1, 1)

    def encode_images(self, images: Tensor) -> Tensor:
        """Latents [N, C, h, w] of images [N, 3, H, W] in [-1, 1], differentiable: the mean of the posterior."""
        factor, offset = self._scale()
        encoded = self.part("vae").encode(images.float())
        raw = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latent
        return (raw - offset) / factor

    # ------------------------------------------------------------------ sampling

    def make_scheduler(self):
        """The scheduler that samples, fresh."""
        import diffusers

        own = self.scheduler_settings.get("_class_name", "DPMSolverMultistepScheduler")
        name = self.scheduler or ("DPMSolverMultistepScheduler" if own in STOCHASTIC else own)
        kind = getattr(diffusers, name, None)
        if kind is None or not hasattr(kind, "set_timesteps"):
            raise UserError(f'diffusers has no scheduler "{name}" (teacher.options.scheduler)')
        return kind.from_config(self.scheduler_settings)

    def set_timesteps(self, scheduler, steps: int, z: Tensor) -> None:
        """Prepare a scheduler for ``steps`` steps from start noise shaped like ``z``, as the stock pipeline does."""
        scheduler.set_timesteps(steps, device=z.device)

    def sample(
        self,
        denoiser: Denoiser,
        condition: Condition,
        z: Tensor,
        *,
        steps: int,
        guidance_scale: float,
        batch: int = 128,
    ) -> Tensor:
        """As the base says, with the pipeline's own scheduler."""
        from scorefield.teachers.sampling import sample

        if not isinstance(denoiser, NativeDenoiser):
            raise UserError(f"a diffusers pipeline samples its own kind of denoiser, not a {type(denoiser).__name__}")
        scheduler = self.make_scheduler()
        return sample(
            denoiser,
            scheduler,
            condition,
            z,
            steps=steps,
            guidance_scale=guidance_scale,
            batch=batch,
            set_timesteps=self.set_timesteps,
        )


LIBRARIES = ("diffusers", "transformers")


def rehearsable(teacher: Teacher, name: str) -> PipelineTeacher:
    """The teacher, if its networks can be made with random weights; else raises UserError with its ``name``."""
    if not isinstance(teacher, PipelineTeacher):
        raise UserError(f"only diffusers pipelines are timed and estimated, not teacher.name={name}")
    return teacher


def folder_or_id(path: str) -> str:
    """A local folder or hub id as it is; an asset's name becomes its pipeline folder; UserError for a file."""
    if Path(path).is_file():
        raise UserError(
            f"teacher.path {path} is a file, and this task's teachers are diffusers pipelines, a folder or hub id: "
            "EDM's networks and other stored ones are teachers of class_to_image and gan_refine"
        )
    if "/" in path or Path(path).is_dir():
        return path
    return str(resources.asset(path) / "pipeline")


def pipeline_index(path: str) -> dict[str, Any]:
    """model_index.json: the pipeline's class and those of its parts."""
    return hub.read_settings(path, "", "model_index.json")


def cut_by(tokenizer, prompt: str, limit: int) -> str:
    """The part of ``prompt`` beyond ``limit`` tokens (the last of which ends the text); "" when all of it fits."""
    ids = tokenizer(prompt, verbose=False).input_ids  # else it warns of errors that a cut prompt does not lead to
    if len(ids) <= limit:
        return ""
    return tokenizer.decode(ids[limit - 1 : -1], skip_special_tokens=True)


def unread_by(tokenizers: Sequence[Any], prompt: str) -> list[str]:
    """Words of ``prompt`` for which all ``tokenizers`` have their unknown token, at least in part."""

    def strange(tokenizer, word: str) -> bool:
        return tokenizer.unk_token_id in tokenizer(word, add_special_tokens=False).input_ids

    return [word for word in prompt.split() if tokenizers and all(strange(known, word) for known in tokenizers)]


def clip_tokens(tokenizer, prompts: Sequence[str], device: str) -> Tensor:
    """Token ids [N, L] padded to the tokenizer's own length, as every CLIP encoder of diffusers is given them."""
    tokens = tokenizer(
        list(prompts), padding="max_length", truncation=True, max_length=tokenizer.model_max_length, return_tensors="pt"
    )
    return tokens.input_ids.to(device)


def everything(text: Tensor) -> Tensor:
    """The mask [N, L] of a network that attends to all of ``text`` [N, L, C], padding too."""
    return torch.ones(text.shape[:2], dtype=torch.long, device=text.device)
