"""PixArt-alpha and its kin as teachers: a diffusers pipeline folder or hub id becomes a denoiser in sigma.

Prediction form and noise schedule are read from the pipeline's own scheduler configuration.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scorefield import resources
from scorefield.denoiser import Condition, Denoiser
from scorefield.errors import UserError
from scorefield.noise import DiscreteVP, convert
from scorefield.teachers.base import TEACHERS, Teacher


class PixArtDenoiser(Denoiser):
    """D(x_t, sigma, condition) around a ``PixArtTransformer2DModel`` of a variance-preserving process.

    The condition holds ``text`` [B, L, C] (text encoder states) and ``text_mask`` [B, L] (1 = valid). Learned-sigma
    channels are cut off. The network sees alpha * x_t with alpha = 1 / sqrt(1 + sigma^2) at the (fractional)
    timestep of sigma; at the schedule's own sigmas that is exactly what the stock pipeline computes.

    Args:
        network: the transformer, any dtype; its output is cast to float32 before it becomes x0.
        process: noise schedule. prediction: "eps", "v" or "x0".
        null_text: (states [1, L0, C], mask [1, L0]) of the empty prompt, for guidance.
    """

    def __init__(self, network, process: DiscreteVP, prediction: str, null_text: tuple[Tensor, Tensor] | None = None):
        super().__init__()
        self.null_states: Tensor | None
        self.null_mask: Tensor
        self.network, self.process, self.prediction = network, process, prediction
        self.sigma_min, self.sigma_max = process.sigma_min, process.sigma_max
        self.channels = network.config.in_channels
        states, mask = null_text if null_text is not None else (None, None)
        self.register_buffer("null_states", states, persistent=False)
        self.register_buffer("null_mask", mask, persistent=False)

    def forward(self, x_t: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        broad = sigma.float().view(-1, *[1] * (x_t.ndim - 1))
        alpha = (1 + broad.square()).rsqrt()
        native = alpha * x_t.float()
        dtype = next(self.network.parameters()).dtype
        output = self.network(
            native.to(dtype),
            encoder_hidden_states=condition["text"].to(dtype),
            encoder_attention_mask=condition["text_mask"].to(dtype),
            timestep=self.process.timestep(sigma.float()),
            added_cond_kwargs=self._micro_conditions(x_t, dtype),
            return_dict=False,
        )[0][:, : self.channels].float()
        return convert(output, self.prediction, "x0", x_t=native, alpha=alpha, sigma=alpha * broad)

    def _micro_conditions(self, x_t: Tensor, dtype: torch.dtype) -> dict[str, Tensor | None]:
        """Resolution and aspect ratio, which only the 1024-pixel checkpoints (sample_size 128) are told."""
        if not self.network.use_additional_conditions:
            return {"resolution": None, "aspect_ratio": None}
        height, width = 8 * x_t.shape[2], 8 * x_t.shape[3]
        size = torch.tensor([[height, width]], device=x_t.device, dtype=dtype).expand(len(x_t), 2)
        ratio = torch.full((len(x_t), 1), height / width, device=x_t.device, dtype=dtype)
        return {"resolution": size, "aspect_ratio": ratio}

    def null_condition(self, like: Condition) -> Condition:
        if self.null_states is None:
            raise UserError("this teacher has no empty-prompt embedding: use guidance scale 1 or give null_text")
        batch, length = like["text_mask"].shape
        states, mask = self.null_states, self.null_mask
        if mask.shape[1] > length:
            states, mask = states[:, :length], mask[:, :length]
        padding = length - mask.shape[1]
        states = torch.nn.functional.pad(states, (0, 0, 0, padding)).expand(batch, -1, -1)
        mask = torch.nn.functional.pad(mask, (0, padding)).expand(batch, -1)
        return {"text": states.to(like["text"].dtype), "text_mask": mask.to(like["text_mask"].dtype)}


def process_of(settings: dict) -> tuple[DiscreteVP, str]:
    """Noise process and prediction form ("eps", "v", "x0") of a diffusers scheduler configuration."""
    forms = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
    prediction = settings.get("prediction_type", "epsilon")
    if prediction not in forms:
        raise UserError(f'prediction_type "{prediction}" is not a variance-preserving form: {", ".join(forms)}')
    return DiscreteVP.from_scheduler(settings), forms[prediction]


def quiet() -> None:
    """No progress bars of the libraries between our own lines."""
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()


@TEACHERS.register("pixart")
@dataclass
class TextToImagePipeline(Teacher):
    """The parts of a pipeline folder, each loaded when it is first needed.

    Attributes:
        path: an asset's name, a local folder or a hub id.
        device: where the networks go. dtype: of transformer weights.
        max_tokens: prompts are cut there (with a warning that says what is cut).
    """

    path: str
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    max_tokens: int = 120

    def __post_init__(self) -> None:
        if "/" not in self.path and not Path(self.path).is_dir():
            self.path = str(resources.asset(self.path) / "pipeline")
        self._text_encoder: Any = None
        self._tokenizer: Any = None
        self._vae: Any = None
        self.scheduler_settings = self._settings("scheduler", "scheduler_config.json")
        self.process, self.prediction = process_of(self.scheduler_settings)
        self.sigma_min, self.sigma_max = self.process.sigma_min, self.process.sigma_max

    def _settings(self, part: str, name: str) -> dict:
        local = Path(self.path) / part / name
        if Path(self.path).is_dir():
            if not local.exists():
                raise UserError(f"{self.path} is no whole pipeline folder: {part}/{name} is missing")
            return json.loads(local.read_text())
        from huggingface_hub import hf_hub_download

        try:
            return json.loads(Path(hf_hub_download(self.path, f"{part}/{name}")).read_text())
        except Exception as error:
            raise UserError(
                f"teacher {self.path} is neither a local folder nor a hub repository that can be reached"
            ) from error

    def _load(self, loader, part: str, **options):
        quiet()
        try:
            return loader.from_pretrained(self.path, subfolder=part, **options)
        except Exception as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UserError(f"cannot load {part} of {self.path}: {first}") from error

    def denoiser(self, null: bool = True) -> PixArtDenoiser:
        """A fresh copy of the transformer as a denoiser; ``null`` encodes the empty prompt for guidance."""
        from diffusers import PixArtTransformer2DModel

        network = self._load(PixArtTransformer2DModel, "transformer", torch_dtype=self.dtype)
        null_text = None
        if null:
            encoded = self.encode([""])
            null_text = encoded["text"], encoded["text_mask"]
        denoiser = PixArtDenoiser(network, self.process, self.prediction, null_text)
        return denoiser.to(self.device).eval()

    @property
    def tokenizer(self):
        """The folder's tokenizer (ByT5 for Toybox, T5 for PixArt)."""
        if self._tokenizer is None:
            from transformers import AutoTokenizer

            self._tokenizer = self._load(AutoTokenizer, "tokenizer")
        return self._tokenizer

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Text states [N, L, C] float32 and mask [N, L], L = longest of these prompts, at most max_tokens."""
        if self._text_encoder is None:
            from transformers import T5EncoderModel

            self._text_encoder = self._load(T5EncoderModel, "text_encoder", torch_dtype=torch.float32)
            self._text_encoder = self._text_encoder.to(self.device).eval().requires_grad_(False)
        texts = [prompt.lower().strip() for prompt in prompts]
        tokens = self.tokenizer(
            texts, padding="longest", truncation=True, max_length=self.max_tokens, return_tensors="pt"
        ).to(self.device)
        states = self._text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask)[0]
        return {"text": states.float() * tokens.attention_mask[..., None], "text_mask": tokens.attention_mask}

    def cut(self, prompt: str) -> str:
        """The part of ``prompt`` beyond the token limit; "" when all of it fits."""
        ids = self.tokenizer(prompt.lower().strip()).input_ids
        if len(ids) <= self.max_tokens:
            return ""
        return self.tokenizer.decode(ids[self.max_tokens - 1 : -1], skip_special_tokens=True)

    def release_text_encoder(self) -> None:
        """Drop the text encoder from memory; ``encode`` loads it again."""
        self._text_encoder = None

    @property
    def vae(self):
        """The folder's autoencoder, float32, frozen."""
        if self._vae is None:
            from diffusers import AutoencoderKL

            vae = self._load(AutoencoderKL, "vae", torch_dtype=torch.float32)
            self._vae = vae.to(self.device).eval().requires_grad_(False)
        return self._vae

    @torch.no_grad()
    def decode(self, latents: Tensor, batch: int = 64) -> Tensor:
        """Images [N, 3, H, W] in [-1, 1] of latents [N, C, h, w] as the denoiser gives them."""
        scale = self.vae.config.scaling_factor
        parts = [self.vae.decode(part / scale, return_dict=False)[0] for part in latents.float().split(batch)]
        return torch.cat(parts).clamp(-1, 1)

    def encode_images(self, images: Tensor) -> Tensor:
        """As the base says: the mean of the autoencoder's posterior, scaled."""
        return self.vae.encode(images.float()).latent_dist.mode() * self.vae.config.scaling_factor

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
        """As the base says, with the multistep solver on the teacher's own schedule."""
        from scorefield.teachers.sampling import make_scheduler, sample

        if not isinstance(denoiser, PixArtDenoiser):
            raise UserError(f"a PixArt pipeline samples a PixArtDenoiser, not a {type(denoiser).__name__}")
        scheduler = make_scheduler(self.scheduler_settings)
        return sample(denoiser, scheduler, condition, z, steps=steps, guidance_scale=guidance_scale, batch=batch)

    def nearest_sigma(self, sigma: float) -> float:
        return self.process.ve_sigma(self.process.nearest(torch.tensor([sigma]))).item()

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) that the transformer was made for."""
        settings = self._settings("transformer", "config.json")
        return settings["in_channels"], settings["sample_size"], settings["sample_size"]
