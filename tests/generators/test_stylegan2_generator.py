"""StyleGAN2 as the core's generator: draws, what trains, resizing, averages, export, a short refinement."""

import copy

import pytest
import torch
import torch.nn.functional as F

from scorefield import losses, networks
from scorefield.errors import UserError
from scorefield.generators.labels import LabelLaw
from scorefield.generators.stylegan2 import StyleGAN2Generator
from scorefield.random import Draws
from scorefield.teachers.edm import EDMDenoiser
from scorefield.teachers.online import full_copy
from scorefield.training.settings import PlayerConfig, TrainingConfig
from scorefield.training.trainer import Trainer


def network(c_dim=0, seed=0):
    torch.manual_seed(seed)
    base = {"z_dim": 12, "c_dim": c_dim, "w_dim": 10, "img_resolution": 16, "img_channels": 3}
    options = {"mapping_kwargs": {"num_layers": 2}, "synthesis_kwargs": {"channel_base": 128, "channel_max": 16}}
    built = networks.build("Generator", {**base, **options})
    with torch.no_grad():
        for p in built.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return built


def draws(count=4, iteration=0):
    return Draws(0, iteration, torch.arange(count))


def test_a_picture_depends_on_its_draws_alone():
    generator = StyleGAN2Generator(network(3)).train()
    batch = generator.draw(draws())
    assert batch.latents["noise"].shape == (4, 16 + 2 * 64 + 2 * 256)
    assert torch.equal(batch.teacher_condition["label"], batch.latents["label"])
    first = generator(batch)
    assert first.shape == (4, *generator.shape)
    torch.manual_seed(1)
    assert torch.equal(generator(generator.draw(draws())), first)
    alone = generator(generator.draw(Draws(0, 0, torch.tensor([2]))))
    torch.testing.assert_close(alone, first[2:3], rtol=1e-4, atol=1e-4)
    moved = generator.draw(draws())
    moved.latents["noise"] = moved.latents["noise"] + 1
    assert not torch.allclose(generator(moved), first)


def test_it_is_the_network():
    raw = network(3)
    generator = StyleGAN2Generator(raw, noise_mode="const", truncation_psi=0.6)
    batch = generator.draw(draws())
    assert "noise" not in batch.latents
    raw.mapping.w_avg.normal_()
    wanted = raw(batch.latents["z"], batch.latents["label"], truncation_psi=0.6, update_w_avg=False, noise_mode="const")
    torch.testing.assert_close(generator(batch), wanted)


def test_resizing_is_antialiased_and_differentiable():
    raw = network()
    full = StyleGAN2Generator(copy.deepcopy(raw), noise_mode="none")
    batch = full.draw(draws())
    whole = full(batch)
    wanted = {
        "area": F.avg_pool2d(whole, 2),
        "bilinear": F.interpolate(whole, size=8, mode="bilinear", antialias=True),
        "bicubic": F.interpolate(whole, size=8, mode="bicubic", antialias=True),
    }
    for name, picture in wanted.items():
        small = StyleGAN2Generator(copy.deepcopy(raw), noise_mode="none", output_size=8, resize=name)
        assert small.shape == (3, 8, 8)
        got = small(batch)
        torch.testing.assert_close(got, picture, rtol=1e-4, atol=1e-5)
        got.square().sum().backward()
        assert all(p.grad is not None for n, p in small.named_parameters() if "noise_strength" not in n)
    checkers = (torch.arange(16)[:, None] + torch.arange(16)).remainder(2).float().mul(2).sub(1)[None, None]
    shrunk = F.interpolate(checkers, size=8, mode="bicubic", antialias=True)
    assert shrunk[..., 2:-2, 2:-2].abs().max() < 1e-5  # what plain bicubic would alias


def chosen(trainable):
    return {n for n, p in StyleGAN2Generator(network(2), trainable).network.named_parameters() if p.requires_grad}


def test_what_trains():
    names = {n for n, _ in network(2).named_parameters()}
    assert chosen("all") == names
    assert chosen("mapping") == {n for n in names if n.startswith("mapping.")}
    assert chosen("synthesis") == {n for n in names if n.startswith("synthesis.")}
    assert chosen(["synthesis.b16.*", "*.affine.bias"]) == {n for n in names if "b16." in n or "affine.bias" in n}
    for wrong, said in (("al", '"all"'), (["synthesis.b15.*"], "synthesis.b"), ([], "nothing would train")):
        with pytest.raises(UserError, match=said):
            chosen(wrong)


def test_groups_and_averages():
    generator = StyleGAN2Generator(network(2), mapping_lr_scale=100.0)
    groups = generator.parameter_groups()
    assert [group["lr_scale"] for group in groups] == [1.0, 100.0]
    assert sum(len(group["params"]) for group in groups) == len(list(generator.parameters()))
    frozen = StyleGAN2Generator(network(2), "synthesis")
    assert len(frozen.parameter_groups()) == 1
    assert {n for n, _ in frozen.averaged()} == {n for n, _ in frozen.named_parameters()}
    moving = StyleGAN2Generator(network(2), update_w_avg=True)
    assert "network.mapping.w_avg" in dict(moving.averaged())
    before = moving.network.mapping.w_avg.clone()
    moving.eval()(moving.draw(draws()))
    assert torch.equal(moving.network.mapping.w_avg, before)
    moving.train()(moving.draw(draws()))
    assert not torch.equal(moving.network.mapping.w_avg, before)
    still = StyleGAN2Generator(network(2)).train()
    still(still.draw(draws()))
    assert torch.equal(still.network.mapping.w_avg, before)


def test_mixed_precision_is_left_out_unless_asked():
    raw = network()
    generator, mixed = (
        StyleGAN2Generator(raw, noise_mode="none"),
        StyleGAN2Generator(raw, noise_mode="none", autocast=True),
    )
    batch = generator.draw(draws())
    plain = generator(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(generator(batch), plain)
        other = mixed(batch)
    assert other.dtype == torch.float32
    assert not torch.equal(other, plain)
    assert (other - plain).abs().max() < 0.1 * plain.abs().max()


def test_export_round_trip(tmp_path):
    generator = StyleGAN2Generator(network(2)).eval()
    generator.export(tmp_path / "gan")
    again = StyleGAN2Generator.load(tmp_path / "gan").eval()
    assert list(again.network.state_dict()) == list(generator.network.state_dict())
    batch = generator.draw(draws())
    assert torch.equal(again(batch), generator(batch))
    networks.save(networks.build("EDMPrecond", EDM), tmp_path / "edm")
    with pytest.raises(UserError, match="not a StyleGAN2 generator"):
        StyleGAN2Generator.load(tmp_path / "edm")


def test_mistakes_are_user_errors():
    for options, said in (
        ({"noise_mode": "rand"}, "random"),
        ({"resize": "lanczos"}, "bicubic"),
        ({"output_size": 32}, "larger"),
        ({"labels": LabelLaw(3)}, "label law 3"),
        ({"tell_labels": True}, "unconditional"),
    ):
        with pytest.raises(UserError, match=said):
            StyleGAN2Generator(network(), **options)


EDM = {
    "img_resolution": 8,
    "img_channels": 3,
    "label_dim": 2,
    "model_type": "SongUNet",
    "model_channels": 16,
    "num_blocks": 1,
    "channel_mult": [1, 1],
    "attn_resolutions": [4],
}


def refined(accumulation):
    """State before and after two iterations of a 16-pixel GAN under an 8-pixel EDM teacher."""
    torch.manual_seed(0)
    teacher = EDMDenoiser(networks.build("EDMPrecond", EDM)).eval()
    generator = StyleGAN2Generator(network(2), output_size=8)
    player = PlayerConfig(learning_rate=1e-3)
    settings = {"iterations": 2, "batch": 4, "device": "cpu", "sigma_data": 0.5, "accumulation": accumulation}
    config = TrainingConfig(**settings, generator=player, online=player)
    trainer = Trainer(config, teacher, full_copy(teacher), generator, losses.build("diff_instruct"))
    before = networks.state_of(generator.network)
    for k in range(2):
        trainer.iteration(k)
    figures = trainer.figures(2)
    assert figures["nan_samples"] == figures["skipped_steps"] == 0
    return before, networks.state_of(generator.network)


def test_a_short_refinement():
    before, after = refined(1)
    assert all(torch.equal(after[n], v) for n, v in before.items() if n.endswith(("noise_const", "filter", "w_avg")))
    assert not torch.equal(after["synthesis.b16.conv1.weight"], before["synthesis.b16.conv1.weight"])
    _, split = refined(2)  # renders twice, from the same draws
    name = "synthesis.b16.torgb.bias"
    torch.testing.assert_close(split[name], after[name], rtol=1e-2, atol=1e-4)
