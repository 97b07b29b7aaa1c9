"""Public configurations of the presets' teachers: enough to build each network with random weights, nothing fetched.

Facts from the models' own configuration files, only what differs from the classes' defaults.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from scorefield.errors import UserError, suggest
from scorefield.files import write_json
from scorefield.teachers.settings import TeacherConfig

LINEAR = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02, "num_train_timesteps": 1000}
SCALED = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000}
BLOCKS4 = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
}
BLOCKS4_OF_16 = {**BLOCKS4, "latent_channels": 16}

PIXART = {
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 28,
    "cross_attention_dim": 1152,
    "sample_size": 64,
    "patch_size": 2,
    "caption_channels": 4096,
    "use_additional_conditions": False,
}
SD15 = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [320, 640, 1280, 1280],
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
SD21_BASE = {
    **SD15,
    "cross_attention_dim": 1024,
    "attention_head_dim": [5, 10, 20, 20],
    "use_linear_projection": True,
}
SDXL = {
    "sample_size": 128,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "cross_attention_dim": 2048,
    "attention_head_dim": [5, 10, 20],
    "transformer_layers_per_block": [1, 2, 10],
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
SD35_MEDIUM = {
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 24,
    "attention_head_dim": 64,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 384,
    "dual_attention_layers": list(range(13)),
    "qk_norm": "rms_norm",
}
FLUX = {
    "patch_size": 1,
    "in_channels": 64,
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": True,
}
SANA = {
    "sample_size": 32,
    "patch_size": 1,
    "in_channels": 32,
    "out_channels": 32,
    "num_layers": 20,
    "num_attention_heads": 70,
    "attention_head_dim": 32,
    "num_cross_attention_heads": 20,
    "cross_attention_head_dim": 112,
    "cross_attention_dim": 2240,
    "caption_channels": 2304,
}

# hub id: pipeline class, part and class of the network, its configuration, scheduler, autoencoder
KNOWN: dict[str, tuple[str, str, str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "PixArt-alpha/PixArt-XL-2-512x512": (
        "PixArtAlphaPipeline",
        "transformer",
        "PixArtTransformer2DModel",
        PIXART,
        {"_class_name": "DPMSolverMultistepScheduler", **LINEAR},
        BLOCKS4,
    ),
    "stable-diffusion-v1-5/stable-diffusion-v1-5": (
        "StableDiffusionPipeline",
        "unet",
        "UNet2DConditionModel",
        SD15,
        {"_class_name": "PNDMScheduler", "skip_prk_steps": True, "steps_offset": 1, **SCALED},
        BLOCKS4,
    ),
    # taken off the hub by its owner; the id stands for its configuration
    "stabilityai/stable-diffusion-2-1-base": (
        "StableDiffusionPipeline",
        "unet",
        "UNet2DConditionModel",
        SD21_BASE,
        {"_class_name": "PNDMScheduler", "skip_prk_steps": True, "steps_offset": 1, **SCALED},
        BLOCKS4,
    ),
    "stabilityai/stable-diffusion-xl-base-1.0": (
        "StableDiffusionXLPipeline",
        "unet",
        "UNet2DConditionModel",
        SDXL,
        {"_class_name": "EulerDiscreteScheduler", "steps_offset": 1, "timestep_spacing": "leading", **SCALED},
        BLOCKS4,
    ),
    "stabilityai/stable-diffusion-3.5-medium": (
        "StableDiffusion3Pipeline",
        "transformer",
        "SD3Transformer2DModel",
        SD35_MEDIUM,
        {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0},
        BLOCKS4_OF_16,
    ),
    "black-forest-labs/FLUX.1-dev": (
        "FluxPipeline",
        "transformer",
        "FluxTransformer2DModel",
        FLUX,
        {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True, "shift": 3.0},
        BLOCKS4_OF_16,
    ),
    "Efficient-Large-Model/Sana_1600M_1024px_diffusers": (
        "SanaPipeline",
        "transformer",
        "SanaTransformer2DModel",
        SANA,
        {"_class_name": "DPMSolverMultistepScheduler", "prediction_type": "flow_prediction", "flow_shift": 3.0},
        {"encoder_block_out_channels": [128, 256, 512, 512, 1024, 1024]},
    ),
}


def write_known(path: str, folder: Path) -> Path:
    """The configuration files of a known pipeline, without weights; raises UserError for one that is not known."""
    if path not in KNOWN:
        raise UserError(f"the configuration of {path} is not known here: give a local folder; {suggest(path, KNOWN)}")
    pipeline, part, network, settings, scheduler, vae = KNOWN[path]
    index: dict[str, Any] = {"_class_name": pipeline, part: ["diffusers", network]}
    if "block_out_channels" in vae:
        index["vae"] = ["diffusers", "AutoencoderKL"]
    files = {
        "model_index.json": index,
        f"{part}/config.json": settings,
        "scheduler/scheduler_config.json": scheduler,
        "vae/config.json": vae,
    }
    for name, value in files.items():
        write_json(folder / name, json.loads(json.dumps(value)))
    return folder


def stand_in(settings: TeacherConfig) -> tempfile.TemporaryDirectory | None:
    """Let ``settings.path`` point to the configuration of a pipeline that is known here, without weights.

    Returns the folder, which is there as long as this object; None, and nothing changed, for any other path.
    """
    if settings.path not in KNOWN:
        return None
    folder = tempfile.TemporaryDirectory()
    settings.path = str(write_known(settings.path, Path(folder.name)))
    return folder
