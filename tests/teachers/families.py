"""Small random pipelines of the real diffusers and transformers classes, one a family, tokenizers included."""

from pathlib import Path

import torch

SCALED = {"num_train_timesteps": 1000, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
VAE_BLOCKS = 2  # one halving, so that latents stay small


def clip_tokenizer(length: int = 12):
    """Letters of ASCII, one merged word, and the two marks."""
    from transformers import CLIPTokenizer

    letters = [chr(code) for code in range(33, 127)]
    merges = [("r", "e"), ("re", "d</w>")]
    words = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: k for k, word in enumerate(words)}, merges=merges, model_max_length=length)


def gemma_tokenizer():
    from transformers import GemmaTokenizer

    letters = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *map(chr, range(32, 127))]
    return GemmaTokenizer(vocab={word: k for k, word in enumerate(dict.fromkeys(letters))}, merges=[])


def clip_encoder(width: int, vocabulary: int, projection: int | None = None, length: int = 12):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=length,
        projection_dim=projection or width,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)


def t5_encoder(width: int):
    from transformers import T5Config, T5EncoderModel

    config = T5Config(vocab_size=384, d_model=width, d_kv=8, d_ff=2 * width, num_layers=1, num_heads=2)
    return T5EncoderModel(config)


def kl_vae(channels: int, **more):
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * VAE_BLOCKS,
        up_block_types=("UpDecoderBlock2D",) * VAE_BLOCKS,
        block_out_channels=(8,) * VAE_BLOCKS,
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=4,
        **more,
    )


def unet(context: int, **more):
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=context,
        norm_num_groups=4,
        attention_head_dim=2,
        **more,
    )


def sd(prediction: str, zero_snr: bool = False):
    from diffusers import DDIMScheduler, PNDMScheduler, StableDiffusionPipeline

    schedule = SCALED | {"prediction_type": prediction, "steps_offset": 1}
    scheduler = (
        DDIMScheduler(**schedule, clip_sample=False, rescale_betas_zero_snr=True, timestep_spacing="trailing")
        if zero_snr
        else PNDMScheduler(**schedule, skip_prk_steps=True)
    )
    tokenizer = clip_tokenizer()
    return StableDiffusionPipeline(
        vae=kl_vae(4, scaling_factor=0.18215),
        text_encoder=clip_encoder(16, len(tokenizer)),
        tokenizer=tokenizer,
        unet=unet(16),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl():
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    tokenizer = clip_tokenizer()
    network = unet(
        16 + 24,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=20 + 6 * 8,
        use_linear_projection=True,
    )
    statistics = {"latents_mean": [0.1, -0.2, 0.3, 0.0], "latents_std": [1.1, 0.9, 1.2, 0.8]}
    return StableDiffusionXLPipeline(
        vae=kl_vae(4, scaling_factor=0.13025, **statistics),
        text_encoder=clip_encoder(16, len(tokenizer)),
        text_encoder_2=clip_encoder(24, len(tokenizer), projection=20),
        tokenizer=tokenizer,
        tokenizer_2=clip_tokenizer(),
        unet=network,
        scheduler=EulerDiscreteScheduler(**SCALED, steps_offset=1, timestep_spacing="leading"),
        add_watermarker=False,
    )


def sd3(t5: bool = True):
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
    from transformers import ByT5Tokenizer

    tokenizer = clip_tokenizer()
    network = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pooled_projection_dim=16 + 20,
        out_channels=4,
        pos_embed_max_size=8,
        qk_norm="rms_norm",
    )
    return StableDiffusion3Pipeline(
        transformer=network,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=kl_vae(4, scaling_factor=1.5305, shift_factor=0.0609),
        text_encoder=clip_encoder(8, len(tokenizer), projection=16),
        tokenizer=tokenizer,
        text_encoder_2=clip_encoder(12, len(tokenizer), projection=20),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=t5_encoder(32) if t5 else None,
        tokenizer_3=ByT5Tokenizer() if t5 else None,
    )


def flux(distilled: bool):
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
    from transformers import ByT5Tokenizer

    tokenizer = clip_tokenizer()
    network = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        guidance_embeds=distilled,
        axes_dims_rope=(4, 4, 8),
    )
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=distilled, shift=3.0 if distilled else 1.0),
        vae=kl_vae(4, scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=clip_encoder(16, len(tokenizer)),
        tokenizer=tokenizer,
        text_encoder_2=t5_encoder(32),
        tokenizer_2=ByT5Tokenizer(),
        transformer=network,
    )


def sana():
    from diffusers import AutoencoderDC, DPMSolverMultistepScheduler, SanaPipeline, SanaTransformer2DModel
    from transformers import Gemma2Config, Gemma2Model

    tokenizer = gemma_tokenizer()
    encoder = Gemma2Model(
        Gemma2Config(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=8,
        )
    )
    network = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=16,
        sample_size=16,
        patch_size=1,
    )
    vae = AutoencoderDC(
        latent_channels=4,
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        encoder_block_types="ResBlock",
        decoder_block_types="ResBlock",
        encoder_qkv_multiscales=((), ()),
        decoder_qkv_multiscales=((), ()),
        downsample_block_type="Conv",
        upsample_block_type="interpolate",
        attention_head_dim=4,
        scaling_factor=0.41407,
    )
    schedule = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    return SanaPipeline(tokenizer, encoder, vae, network, DPMSolverMultistepScheduler(**schedule))


def pixart_sigma():
    from diffusers import DPMSolverMultistepScheduler, PixArtSigmaPipeline, PixArtTransformer2DModel
    from transformers import ByT5Tokenizer

    network = PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        cross_attention_dim=16,
        sample_size=8,
        patch_size=2,
        caption_channels=32,
        use_additional_conditions=False,
    )
    return PixArtSigmaPipeline(
        tokenizer=ByT5Tokenizer(),
        text_encoder=t5_encoder(32),
        vae=kl_vae(4, scaling_factor=0.13025),
        transformer=network,
        scheduler=DPMSolverMultistepScheduler(beta_start=1e-4, beta_end=0.02),
    )


def dit():
    from diffusers import DDIMScheduler, DiTPipeline, DiTTransformer2DModel

    network = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=1000,
    )
    names = {str(k): f"thing {k}, item {k}" for k in range(1000)}
    scheduler = DDIMScheduler(beta_start=1e-4, beta_end=0.02, clip_sample=False)
    return DiTPipeline(network, kl_vae(4, scaling_factor=0.18215), scheduler, id2label=names)


MAKERS = {
    "sd_eps": lambda: sd("epsilon"),
    "sd_v": lambda: sd("v_prediction"),
    "sd_v_zero_snr": lambda: sd("v_prediction", zero_snr=True),
    "sdxl": sdxl,
    "sd3": sd3,
    "sd3_without_t5": lambda: sd3(t5=False),
    "flux_dev": lambda: flux(distilled=True),
    "flux_schnell": lambda: flux(distilled=False),
    "sana": sana,
    "pixart_sigma": pixart_sigma,
    "dit": dit,
}


def guided_call(name: str, stock, prompts: list[str], z: torch.Tensor, steps: int, scale: float, **more):
    """What the stock pipeline makes of start noise ``z``, called with its own names for things."""
    stock.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": steps, "output_type": "latent", "latents": z, **more}
    size = 2 * z.shape[-1]
    if name == "dit":
        seeded = torch.Generator().manual_seed(SEED)  # of z: the pipeline takes no latents
        options = {"num_inference_steps": steps, "output_type": "pt", "generator": seeded}
        return stock(stock.get_label_ids(prompts), guidance_scale=scale, **options).images
    if name.startswith("flux"):
        packed = stock._pack_latents(z, *z.shape)
        options |= {"latents": packed, "max_sequence_length": TOKENS, "height": size, "width": size}
        negative = {"true_cfg_scale": scale, "negative_prompt": more.pop("negative_prompt", "")}
        made = stock(prompts, guidance_scale=3.5, **options | negative).images
        return stock._unpack_latents(made, size, size, 2)
    if name.startswith("sana"):
        options |= {"complex_human_instruction": ["be", "red: "], "use_resolution_binning": False}
    if name.startswith("pixart"):
        options |= {"use_resolution_binning": False}
    if name.startswith(("sana", "pixart", "sd3")):
        options |= {"max_sequence_length": TOKENS}
    return stock(prompts, guidance_scale=scale, height=size, width=size, **options).images


TOKENS, SEED = 24, 5
OPTIONS = {"flux": {"resolution": 16}, "sana": {"instruction": "be\nred: "}}


def teacher(name: str, folder: Path, **options):
    """Our adapter of that folder, found by its class."""
    from scorefield.teachers.auto import adapter_of
    from scorefield.teachers.base import TEACHERS

    options = OPTIONS.get(name.split("_")[0], {}) | options
    return TEACHERS.get(adapter_of(str(folder)))(str(folder), max_tokens=TOKENS, **options)


def start(shape: tuple[int, ...], count: int = 2) -> torch.Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(SEED))


def write(name: str, folder: Path) -> Path:
    """The pipeline of a family as a folder; every path of its network counts."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipeline = MAKERS[name]()
        network = pipeline.unet if name.startswith("sd_") or name == "sdxl" else pipeline.transformer
        for parameter in network.parameters():
            parameter.data.add_(0.05 * torch.randn_like(parameter))
    if name == "dit":
        pipeline.register_to_config(id2label={str(k): f"thing {k}, item {k}" for k in range(1000)})
    pipeline.save_pretrained(folder)
    return folder
