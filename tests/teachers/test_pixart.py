"""The PixArt adapter against stock diffusers, on a random network set up as the 1024-pixel checkpoints are."""

import pytest
import torch

from scorefield.denoiser import Guided
from scorefield.pretrain import autoencoder
from scorefield.pretrain.transformer import Architecture, build_text_encoder
from scorefield.teachers.native import process_of
from scorefield.teachers.pixart import PixArt, PixArtDenoiser
from scorefield.teachers.sampling import sample

SCHEDULE = {"num_train_timesteps": 1000, "beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
PROMPTS = ["a red chair", "an orange boat on navy, seen from the front", ""]
FORMS = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A whole pipeline: sample_size 128 and micro-conditions, learned sigma, 120 tokens; few and narrow layers."""
    from diffusers import DPMSolverMultistepScheduler, PixArtAlphaPipeline, PixArtTransformer2DModel
    from transformers import ByT5Tokenizer

    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = ByT5Tokenizer()
        network = PixArtTransformer2DModel(
            num_attention_heads=3,
            attention_head_dim=8,
            in_channels=4,
            out_channels=8,
            num_layers=2,
            cross_attention_dim=24,
            sample_size=128,
            patch_size=8,
            caption_channels=16,
            use_additional_conditions=True,
        )
        for parameter in network.parameters():  # every path must count, and the answer must not be small
            parameter.data.add_(0.1 * torch.randn_like(parameter))
        text = Architecture(text_width=16, text_layers=1, text_heads=2)
        pipeline = PixArtAlphaPipeline(
            tokenizer=tokenizer,
            text_encoder=build_text_encoder(text, len(tokenizer)),
            vae=autoencoder.build(4, (8, 8, 8, 8), 1024),
            transformer=network,
            scheduler=DPMSolverMultistepScheduler(**SCHEDULE, solver_order=2, algorithm_type="dpmsolver++"),
        )
    path = tmp_path_factory.mktemp("pixart") / "pipeline"
    pipeline.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def ours(folder):
    return PixArt(str(folder), max_tokens=120)


@pytest.fixture(scope="module")
def stock(folder):
    from diffusers import PixArtAlphaPipeline

    pipeline = PixArtAlphaPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def stock_output(network, x, timestep, text, resolution=1024.0):
    """What the network itself says, called as the stock pipeline calls it at 1024 pixels."""
    return network(
        x,
        encoder_hidden_states=text["text"],
        encoder_attention_mask=text["text_mask"],
        timestep=torch.full((len(x),), timestep),
        added_cond_kwargs={
            "resolution": torch.full((len(x), 2), resolution),
            "aspect_ratio": torch.ones(len(x), 1),
        },
        return_dict=False,
    )[0]


@pytest.mark.parametrize("timestep", [0, 1, 250, 640, 998, 999])
@pytest.mark.parametrize("form", FORMS)
def test_the_denoiser_is_what_the_stock_scheduler_calls_the_original_sample(ours, timestep, form):
    from diffusers import DDPMScheduler

    settings = SCHEDULE | {"prediction_type": FORMS[form]}
    scheduler = DDPMScheduler(**settings, clip_sample=False)
    process, prediction = process_of(settings)
    assert prediction == form
    denoiser = PixArtDenoiser(ours.denoiser().network, process, prediction)
    text, x = ours.encode(PROMPTS), noise(3, 4, 128, 128)
    with torch.no_grad():
        output = stock_output(denoiser.network, x, timestep, text)
        assert output.shape[1] == 8
        expected = scheduler.step(output[:, :4], timestep, x).pred_original_sample
        alpha = scheduler.alphas_cumprod[timestep].sqrt()
        sigma = ((1 - alpha**2).sqrt() / alpha).expand(3)
        found = denoiser(x / alpha, sigma, text)
    # at pure noise x0 is (x - eps) / 0.006: float32 leaves a few thousandths of it
    assert (found - expected).abs().max() < 2e-3 * expected.abs().max()


def test_the_denoiser_is_the_original_sample_of_the_euler_scheduler(ours):
    """Euler's own coordinate is ours: x = x0 + sigma eps."""
    from diffusers import EulerDiscreteScheduler

    scheduler, denoiser = EulerDiscreteScheduler(**SCHEDULE), ours.denoiser()
    scheduler.set_timesteps(4)
    text, x = ours.encode(PROMPTS), 20 * noise(3, 4, 128, 128)
    for timestep, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
        with torch.no_grad():
            seen = scheduler.scale_model_input(x, timestep)
            output = stock_output(denoiser.network, seen, timestep.item(), text)[:, :4]
            expected = scheduler.step(output, timestep, x)
            found = denoiser(x, sigma.expand(3).float(), text)
        scale = expected.pred_original_sample.abs().max()
        assert (found - expected.pred_original_sample).abs().max() < 1e-4 * scale
        x = expected.prev_sample


def test_the_network_hears_resolution_and_mask(ours):
    denoiser, text, x = ours.denoiser(), ours.encode(PROMPTS), noise(3, 4, 128, 128)
    with torch.no_grad():
        whole = denoiser(x, torch.ones(3), text)
        timestep = denoiser.process.timestep(torch.ones(1)).item()
        told = [stock_output(denoiser.network, x, timestep, text, size)[:, :4] for size in (1024.0, 512.0)]
        assert not torch.allclose(*told, atol=1e-2)
        garbage = torch.where(text["text_mask"].bool()[..., None], text["text"], torch.full_like(text["text"], 7.0))
        assert torch.allclose(denoiser(x, torch.ones(3), {**text, "text": garbage}), whole, atol=1e-4)
        unmasked = {"text": garbage, "text_mask": torch.ones_like(text["text_mask"])}
        assert not torch.allclose(denoiser(x, torch.ones(3), unmasked)[0], whole[0], atol=1e-3)


@pytest.mark.parametrize("guidance_scale", [1.0, 4.5])
def test_our_sampler_ends_where_the_stock_pipeline_ends(ours, stock, guidance_scale):
    from diffusers import DPMSolverMultistepScheduler

    z = noise(3, *ours.latent_shape)
    scheduler = DPMSolverMultistepScheduler.from_config(ours.scheduler_settings)
    found = sample(ours.denoiser(), scheduler, ours.encode(PROMPTS), z, steps=6, guidance_scale=guidance_scale, batch=2)
    expected = stock(
        PROMPTS,
        latents=z,
        output_type="latent",
        num_inference_steps=6,
        guidance_scale=guidance_scale,
        use_resolution_binning=False,
    ).images
    assert (found - expected).abs().max() < 1e-3 * expected.abs().max()


def test_guidance_means_the_same_in_one_batch_or_two(ours):
    denoiser, text, x = ours.denoiser(), ours.encode(PROMPTS), noise(3, 4, 128, 128)
    with torch.no_grad():
        doubled, split = (Guided(denoiser, 4.5, way)(x, torch.ones(3), text) for way in (False, True))
    assert torch.allclose(doubled, split, atol=1e-3 * doubled.abs().max().item())
    assert not torch.allclose(doubled, denoiser(x, torch.ones(3), text), atol=1e-3)
