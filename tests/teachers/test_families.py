"""Every family's adapter against its stock pipeline, on small random networks of the real classes."""

import pytest
import torch

from scorefield.errors import UserError
from scorefield.noise import DiscreteVP

from . import families

PROMPTS = ["a red chair", "a boat"]
CLASSES = ["thing 7", "item 3"]


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    made = {}

    def get(name: str):
        if name not in made:
            made[name] = families.write(name, tmp_path_factory.mktemp(name) / "pipeline")
        return made[name]

    return get


def stock_of(folder):
    from diffusers import DiffusionPipeline

    absent = {"text_encoder_3": None, "tokenizer_3": None} if "without" in str(folder) else {}
    return DiffusionPipeline.from_pretrained(folder, **absent)


def prompts_of(name: str) -> list[str]:
    return CLASSES if name == "dit" else PROMPTS


def close(found: torch.Tensor, expected: torch.Tensor, part: float) -> bool:
    return bool((found - expected).abs().max() < part * expected.abs().max())


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("name", families.MAKERS)
def test_many_steps_end_where_the_stock_pipeline_ends(name, scale, folder_of):
    ours = families.teacher(name, folder_of(name))
    z = families.start(ours.latent_shape)
    expected = families.guided_call(name, stock_of(folder_of(name)), prompts_of(name), z, 4, scale)
    condition = ours.encode(prompts_of(name))
    found = ours.sample(ours.denoiser(), condition, z, steps=4, guidance_scale=scale, batch=128)
    if name == "dit":  # its pipeline hands out pictures only
        found = ours.decode(found) / 2 + 0.5
    assert close(found, expected, 1e-4)
    assert expected.std() > 0.01


@pytest.mark.parametrize("name", ["sd_eps", "sdxl", "sd3", "flux_schnell", "sana"])
def test_negative_prompts_are_the_pipelines(name, folder_of):
    negative = "an ugly red boat"
    ours = families.teacher(name, folder_of(name), negative_prompt=negative)
    z, stock = families.start(ours.latent_shape), stock_of(folder_of(name))
    words = negative if name == "sana" else [negative] * 2
    expected = families.guided_call(name, stock, PROMPTS, z, 2, 3.0, negative_prompt=words)
    found = ours.sample(ours.denoiser(), ours.encode(PROMPTS), z, steps=2, guidance_scale=3.0)
    assert close(found, expected, 1e-4)
    plain = families.guided_call(name, stock, PROMPTS, z, 2, 3.0)
    assert not close(plain, expected, 1e-3)


def original_samples(name: str, stock, z, prompts) -> list[tuple[float, torch.Tensor, torch.Tensor]]:
    """(timestep, native x, what the stock scheduler calls the original sample) along an unguided stock run."""
    from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

    flow = name.startswith(("sd3", "flux", "sana"))
    kind = FlowMatchEulerDiscreteScheduler if flow else DDIMScheduler
    more = {"use_dynamic_shifting": False} if flow else {"clip_sample": False, "timestep_spacing": "linspace"}
    stock.scheduler = kind.from_config(stock.scheduler.config, **more)
    seen, step = [], stock.scheduler.step

    def noted(output, timestep, sample, **options):
        x = stock._unpack_latents(sample, 16, 16, 2) if name.startswith("flux") else sample
        if flow:  # one whole step to zero noise is x0
            last = FlowMatchEulerDiscreteScheduler()
            last.set_timesteps(sigmas=[timestep.item() / 1000])
            x0 = last.step(output, last.timesteps[0], sample, return_dict=False)[0]
            x0 = stock._unpack_latents(x0, 16, 16, 2) if name.startswith("flux") else x0
        else:
            x0 = step(output, timestep, sample).pred_original_sample
        seen.append((float(timestep), x, x0))
        return step(output, timestep, sample, **options)

    stock.scheduler.step = noted
    families.guided_call(name, stock, prompts, z, 5, 1.0)
    return seen


@pytest.mark.parametrize("name", families.MAKERS)
def test_the_denoiser_is_what_the_scheduler_calls_the_original_sample(name, folder_of):
    ours = families.teacher(name, folder_of(name))
    denoiser, condition = ours.denoiser(), ours.encode(prompts_of(name))
    z = families.start(ours.latent_shape)
    compared = 0
    for timestep, x, expected in original_samples(name, stock_of(folder_of(name)), z, prompts_of(name)):
        coordinate = torch.tensor([timestep / denoiser.time_scale])
        if coordinate == 1.0 or (isinstance(ours.process, DiscreteVP) and timestep > ours.process.steps - 1):
            continue  # pure noise has no finite sigma
        sigma = ours.process.ve_sigma(coordinate)
        alpha = ours.process.scales(sigma)[0]
        with torch.no_grad():
            found = denoiser(x / alpha, sigma.expand(2), condition)
        assert close(found, expected, 2e-3 if timestep > 990 else 1e-4), timestep
        compared += 1
    assert compared >= 3


@pytest.mark.parametrize("name", ["sd_eps", "sdxl", "sd3", "sana"])
def test_pictures_are_scaled_and_shifted_as_the_pipeline_does(name, folder_of):
    """decode is the stock pipeline's end; encode_images is the inverse affine map, and differentiable."""
    ours, stock = families.teacher(name, folder_of(name)), stock_of(folder_of(name))
    z = families.start(ours.latent_shape)
    more = {"output_type": "pt"}
    latents = families.guided_call(name, stock, PROMPTS, z, 2, 1.0)
    expected = families.guided_call(name, stock, PROMPTS, z, 2, 1.0, **more)
    assert (ours.decode(latents) / 2 + 0.5 - expected).abs().max() < 1e-5
    images = torch.rand(2, 3, 2 * z.shape[-1], 2 * z.shape[-1], requires_grad=True)
    latents = ours.encode_images(images)
    assert latents.shape == z.shape
    encoded = ours.part("vae").encode(images)
    raw = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latent
    factor, offset = ours._scale()
    assert torch.allclose(latents * factor + offset, raw, atol=1e-5)
    latents.sum().backward()
    assert images.grad.abs().sum() > 0


def test_labels_are_not_dropped_while_a_copy_is_trained(folder_of):
    ours = families.teacher("dit", folder_of("dit"))
    denoiser, label = ours.denoiser(), {"label": torch.full((64,), 7)}
    x = families.start(ours.latent_shape, 1).expand(64, -1, -1, -1)
    made = denoiser.train()(x, torch.ones(64), label)
    assert torch.allclose(made, made[:1].expand_as(made), atol=1e-5)
    with pytest.raises(UserError, match="no class"):
        ours.encode(["1000"])


def test_the_embedded_guidance_reaches_a_distilled_network_only(folder_of):
    x, sigma = families.start((4, 8, 8)), torch.ones(2)
    for name, told in (("flux_dev", True), ("flux_schnell", False)):
        made = []
        for scale in (1.0, 3.5):
            ours = families.teacher(name, folder_of(name), embedded_guidance=scale)
            with torch.no_grad():
                made.append(ours.denoiser(null=False)(x, sigma, ours.encode(PROMPTS)))
        assert torch.equal(*made) is not told
