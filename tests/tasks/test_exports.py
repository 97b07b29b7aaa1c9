"""Few-step students and LoRA files, family by family: stock diffusers runs them as the export's own README says."""

import re

import pytest
import torch

from scorefield.errors import UserError
from scorefield.export import kohya
from scorefield.export.lora import KOHYA, WEIGHTS, lora_of
from scorefield.generators.base import Batch
from scorefield.generators.few_step import FewStepGenerator
from scorefield.generators.one_step import OneStepGenerator
from scorefield.runfolder import RunFolder
from scorefield.teachers import shared
from tasks.text_to_image import export
from tests.teachers import families

PROMPT = "a blue robot, front view"  # of the README's code
SLOW = ("sd_v", "sd_v_zero_snr", "sdxl", "sd3", "flux_schnell", "sana")  # other families go the same way
LATENT = [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in families.MAKERS if n != "dit"]
LORAS = ["sd_eps", "sdxl", "sd3", "flux_dev", pytest.param("sana", marks=pytest.mark.slow), "pixart_sigma"]


def code_of(readme: str, place: int, **replaced: str) -> str:
    """A block of the README's Python, its picture as a tensor."""
    code = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)[place]
    for before, after in replaced.items():
        assert before in code
        code = code.replace(before, after)
    assert code.count(").images") == 1
    return code.replace(").images", ', output_type="pt").images')


def ran(code: str) -> torch.Tensor:
    """The picture [3, H, W] in [-1, 1] that some README's code makes."""
    scope: dict = {}
    exec(code, scope)
    return scope["image"] * 2 - 1


def start_noise(ours) -> torch.Tensor:
    """The README's noise, in the shape of latents."""
    shape = ours.stock_latents()
    drawn = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    if len(shape) == 3:
        return drawn
    channels, height, width = ours.latent_shape
    patches = drawn.view(1, height // 2, width // 2, channels, 2, 2)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(1, channels, height, width)


def as_stock(ours, z: torch.Tensor) -> torch.Tensor:
    """Latents in the shape that the stock pipeline takes: the inverse of ``start_noise``."""
    if len(ours.stock_latents()) == 3:
        return z
    batch, channels, height, width = z.shape
    patches = z.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(batch, -1, 4 * channels)


def expected(ours, generator, z: torch.Tensor) -> torch.Tensor:
    condition = ours.encode([PROMPT])
    with torch.no_grad():
        return ours.decode(generator.eval()(Batch({"z": z}, condition, condition)))[0]


def exported(ours, generator, folder, monkeypatch, only: str = ""):
    """(folder, README) of an export, the working directory beside it."""
    (folder / "config.yaml").write_text("task: text_to_image\n")
    out = export.write(ours, generator, RunFolder(folder), folder / "export", export.Wanted(only))
    monkeypatch.chdir(folder)
    return out, (out / "README.md").read_text()


def hand_over(monkeypatch, ours, generator, z: torch.Tensor) -> None:
    """Let stock schedulers noise with the generator's own later noise in place of new draws."""
    later = [as_stock(ours, z.flatten(1)[:, order].view_as(z)) for order in generator.orders[1:]]
    for module in ("scheduling_lcm", "scheduling_flow_match_euler_discrete"):
        left = iter([*later, torch.zeros_like(later[0])])  # the flow's last draw is multiplied by zero
        monkeypatch.setattr(f"diffusers.schedulers.{module}.randn_tensor", lambda *_, left=left, **__: next(left))


@pytest.mark.parametrize("name", LATENT)
def test_stock_diffusers_runs_a_few_step_student(name, tmp_path, monkeypatch):
    ours = families.teacher(name, families.write(name, tmp_path / "teacher"))
    shape = ours.latent_shape
    generator = FewStepGenerator(ours.denoiser(), shape, ours.nearest_sigma(4.0), steps=3)
    _, readme = exported(ours, generator, tmp_path, monkeypatch)
    z = start_noise(ours)
    hand_over(monkeypatch, ours, generator, z)
    made, wanted = ran(code_of(readme, 0)), expected(ours, generator, z)
    assert (made - wanted).abs().max() < 3e-4
    assert wanted.std() > 0.02
    single = OneStepGenerator(generator.denoiser, shape, generator.init_sigma)
    assert (made - expected(ours, single, z)).abs().max() > 3e-3


def adapted(ours) -> OneStepGenerator:
    """A student that is an adapter, moved away from the teacher."""
    denoiser = ours.denoiser(null=False)
    view = shared.share(denoiser, {"generator": shared.Adapter(3), "online": shared.Adapter(2)})[1]["generator"]
    rng = torch.Generator().manual_seed(1)
    for value in view.parameters():
        value.data = 0.3 * torch.randn(value.shape, generator=rng)
    return OneStepGenerator(view, ours.latent_shape, ours.nearest_sigma(2.5))


def laid(ours) -> OneStepGenerator:
    return OneStepGenerator(ours.denoiser(null=False), ours.latent_shape, ours.nearest_sigma(2.5))


@pytest.mark.parametrize("name", LORAS)
def test_stock_diffusers_loads_the_lora(name, tmp_path, monkeypatch):
    ours = families.teacher(name, families.write(name, tmp_path / "teacher"))
    generator, z = adapted(ours), start_noise(ours)
    wanted = expected(ours, generator, z)
    out, readme = exported(ours, generator, tmp_path, monkeypatch, "lora")
    assert not (out / "model_index.json").exists()
    takes = "num_inference_steps=1, guidance" in readme  # SD and PixArt draw and scale their own start noise
    hand = {"num_inference_steps=1": "num_inference_steps=1, latents=Z"} if takes else {}
    code = code_of(readme, 0, **hand)
    torch.save(z, tmp_path / "z.pt")
    made = ran(code.replace("latents=Z", 'latents=torch.load("z.pt")'))
    assert (made - wanted).abs().max() < 3e-4
    assert (expected(ours, laid(ours), z) - wanted).abs().max() > 3e-3  # it is no teacher
    assert (out / "lora" / KOHYA).exists() is bool(ours.kohya)
    if ours.kohya in ("unet", "sgm"):  # the other layout through stock diffusers' own reader
        again = ran(code.replace("latents=Z", 'latents=torch.load("z.pt")').replace(WEIGHTS, KOHYA))
        assert (again - wanted).abs().max() < 3e-4
    elif not ours.kohya:
        assert "no kohya key layout" in readme
        with pytest.raises(UserError, match="no kohya key layout for a"):
            exported(ours, adapted(ours), tmp_path, monkeypatch, "kohya")


def test_what_cannot_leave_is_refused_in_one_sentence(tmp_path, monkeypatch):
    ours = families.teacher("dit", families.write("dit", tmp_path / "teacher"))
    with pytest.raises(UserError, match="DiTPipeline takes no start noise"):
        exported(ours, adapted(ours), tmp_path, monkeypatch, "lora")
    few = FewStepGenerator(ours.denoiser(), ours.latent_shape, ours.nearest_sigma(4.0), steps=2)
    with pytest.raises(UserError, match="DiTPipeline takes no start noise"):
        exported(ours, few, tmp_path, monkeypatch)
    with pytest.raises(UserError, match=r"generator\.kind=full"):
        exported(ours, laid(ours), tmp_path, monkeypatch, "kohya")
    with pytest.raises(UserError, match='--only "loar" is unknown: did you mean "lora"'):
        export.Wanted("loar")
    assert not (tmp_path / "export").exists()


def drawn(network, names: list[str], rank: int = 2) -> kohya.Factors:
    """Made-up factors of some layers."""
    rng = torch.Generator().manual_seed(0)
    layers = {name: network.get_submodule(name) for name in names}
    return {
        name: (
            torch.randn(rank, layer.in_features, generator=rng),
            torch.randn(layer.out_features, rank, generator=rng),
        )
        for name, layer in layers.items()
    }


def change(state: dict, name: str) -> torch.Tensor:
    """What a layer of kohya's file adds to its weight."""
    down, up = (state[f"lora_unet_{name}.lora_{k}.weight"] for k in ("down", "up"))
    return state[f"lora_unet_{name}.alpha"] / len(down) * up @ down


def test_kohyas_flux_keys_are_read_back_by_diffusers():
    from diffusers import FluxPipeline, FluxTransformer2DModel

    with torch.device("meta"):  # diffusers' reader knows the real width alone
        network = FluxTransformer2DModel(num_layers=1, num_single_layers=1, guidance_embeds=True)
    double, single = "transformer_blocks.0.", "single_transformer_blocks.0."
    names = [double + f"attn.{k}" for k in ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_v_proj")]
    names += [double + "ff.net.0.proj", *(single + f"attn.{k}" for k in ("to_q", "to_k", "to_v"))]
    factors = drawn(network, names)
    state = kohya.LAYOUTS["flux"](factors, network)
    assert "lora_unet_double_blocks_0_txt_attn_qkv.lora_down.weight" in state
    assert "lora_unet_single_blocks_0_linear1.alpha" in state
    found = FluxPipeline.lora_state_dict(dict(state))
    for name, pair in factors.items():
        for letter, value in zip("AB", pair, strict=True):
            torch.testing.assert_close(found.pop(f"transformer.{name}.lora_{letter}.weight"), value)
    assert all(value.abs().sum() == 0 for key, value in found.items() if "lora_B" in key)  # parts without adapter


def test_kohyas_sd3_keys_change_the_original_layers(tmp_path):
    ours = families.teacher("sd3", families.write("sd3", tmp_path / "sd3"))
    network = ours.denoiser(null=False).network
    names = [f"transformer_blocks.0.attn.{k}" for k in ("to_q", "to_k", "to_v", "to_out.0", "add_k_proj")]
    factors = drawn(network, names)
    state = kohya.LAYOUTS["mmdit"](factors, network)
    deltas = {name.rsplit("attn.")[1]: b @ a for name, (a, b) in factors.items()}
    image = torch.cat([deltas[k] for k in ("to_q", "to_k", "to_v")])
    torch.testing.assert_close(change(state, "joint_blocks_0_x_block_attn_qkv"), image)
    torch.testing.assert_close(change(state, "joint_blocks_0_x_block_attn_proj"), deltas["to_out.0"])
    nothing = torch.zeros_like(deltas["add_k_proj"])
    text = torch.cat([nothing, deltas["add_k_proj"], nothing])
    torch.testing.assert_close(change(state, "joint_blocks_0_context_block_attn_qkv"), text)
    assert len(state) == 9
    with pytest.raises(UserError, match=r"not known here for proj_out: see lora_targets"):
        kohya.LAYOUTS["mmdit"](drawn(network, ["proj_out"]), network)


def test_sdxls_blocks_have_the_original_numbers():
    # of SDXL's base: two blocks and a sampler a stage, so that its innermost stage is input 7, 8 and output 0 to 2
    for ours, theirs in (
        (
            "down_blocks.2.attentions.1.transformer_blocks.9.attn1.to_q",
            "input_blocks.8.1.transformer_blocks.9.attn1.to_q",
        ),
        ("down_blocks.1.attentions.0.proj_in", "input_blocks.4.1.proj_in"),
        ("mid_block.attentions.0.proj_out", "middle_block.1.proj_out"),
        ("up_blocks.0.attentions.2.proj_in", "output_blocks.2.1.proj_in"),
        ("up_blocks.1.attentions.0.proj_in", "output_blocks.3.1.proj_in"),
    ):
        assert kohya.sgm_path(ours, 2) == theirs
    with pytest.raises(UserError, match=r"not for down_blocks\.0\.resnets\.0\.conv1"):
        kohya.sgm_path("down_blocks.0.resnets.0.conv1", 2)


def test_an_adapter_with_another_scale_is_no_plain_lora(tmp_path):
    ours = families.teacher("sd_eps", families.write("sd_eps", tmp_path / "teacher"))
    view = adapted(ours).denoiser
    view.layers[0].scaling["generator"] = 2.0
    with pytest.raises(UserError, match="no LoRA of one rank"):
        lora_of(view)
