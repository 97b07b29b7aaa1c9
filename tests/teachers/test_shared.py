"""One base, three roles: views of one network switch exactly, in every family."""

import copy

import pytest
import torch

from scorefield.errors import UserError
from scorefield.teachers.online import with_lora
from scorefield.teachers.shared import Adapter, merged, share

from . import families

ROLES = {"generator": Adapter(4), "online": Adapter(2, ("to_q", "to_v"))}


@pytest.fixture(scope="module")
def teacher_of(tmp_path_factory):
    made = {}

    def get(name: str):
        if name not in made:
            made[name] = families.teacher(name, families.write(name, tmp_path_factory.mktemp(name) / "pipeline"))
        return made[name]

    return get


def inputs(name: str, ours):
    prompts = ["thing 7", "item 3"] if name == "dit" else ["a red chair", "a boat"]
    return families.start(ours.latent_shape), torch.tensor([0.5, 3.0]), ours.encode(prompts)


def stirred(views: dict) -> None:
    """Adapters as after some training: their second factors are zero at first."""
    rng = torch.Generator().manual_seed(3)
    for view in views.values():
        for name, parameter in view.named_parameters():
            if "lora_B" in name:
                parameter.data = 0.3 * torch.randn(parameter.shape, generator=rng)


@pytest.mark.parametrize("name", families.MAKERS)
def test_three_roles_on_one_set_of_weights(name, teacher_of):
    ours = teacher_of(name)
    given = inputs(name, ours)
    plain = ours.denoiser()
    base = copy.deepcopy(plain)
    teacher, views = share(base, ROLES)
    for view in (teacher, *views.values()):
        assert torch.equal(view(*given), plain(*given))  # adapters begin as no change
    stirred(views)
    first = {role: view(*given) for role, view in views.items()}
    for role in ("online", "generator", "online"):  # whatever ran before
        assert torch.equal(teacher(*given), plain(*given))
        assert torch.equal(views[role](*given), first[role])
    assert not torch.allclose(first["generator"], first["online"], atol=1e-3)
    assert not torch.allclose(first["generator"], plain(*given), atol=1e-3)
    assert not list(teacher.parameters())
    owned = [set(map(id, view.parameters())) for view in views.values()]
    assert not owned[0] & owned[1]
    assert sum(map(len, owned)) == len([p for p in base.parameters() if p.requires_grad])
    expected = first["generator"].detach()
    assert torch.allclose(merged(views["generator"])(*given), expected, atol=1e-4 * expected.abs().max().item())
    assert not any("lora" in key for key in base.state_dict())


@pytest.mark.parametrize("name", ["sd_eps", "flux_dev"])
def test_a_graph_keeps_the_role_that_it_was_made_with(name, teacher_of):
    """The trainer's order: generator with a graph, then teacher and online score at its output, then backward."""
    ours = teacher_of(name)
    z, sigma, text = inputs(name, ours)
    teacher, views = share(ours.denoiser(), ROLES)
    stirred(views)
    alone = share(ours.denoiser(), ROLES)[1]["generator"]
    stirred({"generator": alone})
    x0 = views["generator"](z, sigma, text)
    difference = teacher(x0 + z, sigma, text) - views["online"](x0 + z, sigma, text)
    (x0.sum() + 0 * difference.sum()).backward()
    alone(z, sigma, text).sum().backward()
    mine, other = dict(views["generator"].named_parameters()), dict(alone.named_parameters())
    assert mine.keys() == other.keys()
    for key, parameter in mine.items():
        assert torch.allclose(parameter.grad, other[key].grad, rtol=1e-4, atol=1e-6), key
        assert parameter.grad.abs().sum() > 0


def test_under_autocast_a_pass_without_a_graph_takes_nothing_from_a_later_one(teacher_of):
    """A weight that was first cast without a graph would, from a cast cache, come back without one."""
    ours = teacher_of("sd_eps")
    given = inputs("sd_eps", ours)
    teacher, views = share(ours.denoiser(), ROLES)
    stirred(views)
    gradients = []
    for before in (False, True):
        for view in views.values():
            view.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            if before:
                with torch.no_grad():
                    for view in (teacher, *views.values()):
                        view(*given)
            total = sum(view(*given).square().mean() for view in views.values())
        total.backward()
        gradients.append([p.grad.clone() for view in views.values() for p in view.parameters()])
    for plain, after in zip(*gradients, strict=True):
        assert torch.equal(plain, after)
        assert after.abs().sum() > 0


def test_under_autocast_what_enters_an_adapter_is_not_cast_to_float32_first(teacher_of):
    """The products are of bf16 either way; without autocast a float32 adapter on bf16 weights needs the cast."""
    ours = teacher_of("sd_eps")
    given = inputs("sd_eps", ours)
    _, views = share(ours.denoiser().bfloat16(), ROLES)
    stirred(views)
    view, seen = views["generator"], []
    hooks = [
        layer.lora_A["generator"].register_forward_pre_hook(lambda _, given: seen.append(given[0].dtype))
        for layer in view.layers
    ]
    wide = tuple(x.bfloat16() if torch.is_tensor(x) and x.is_floating_point() else x for x in given)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        kept = view(*given)
        under, seen[:] = set(seen), []
        for layer in view.layers:
            layer._cast_input_dtype = lambda x, dtype: x.to(dtype)  # as peft does it by itself
        cast = view(*given)
        assert set(seen) == {torch.float32}
    for layer in view.layers:
        del layer._cast_input_dtype
    assert torch.bfloat16 in under
    assert torch.equal(kept, cast)
    with torch.no_grad():
        assert torch.isfinite(view(*wide)).all()
    for hook in hooks:
        hook.remove()


def test_adapters_are_float32_on_bf16_weights_and_the_base_stays(teacher_of):
    ours = teacher_of("sd3")
    given = inputs("sd3", ours)
    base = ours.denoiser().bfloat16()
    before = {name: value.clone() for name, value in base.named_parameters()}
    _, views = share(base, ROLES)
    assert {p.dtype for view in views.values() for p in view.parameters()} == {torch.float32}
    optimizer = torch.optim.AdamW([p for view in views.values() for p in view.parameters()], lr=0.1)
    sum(view(*given).square().mean() for view in views.values()).backward()
    optimizer.step()
    after = {name.replace(".base_layer", ""): value for name, value in base.named_parameters() if "lora" not in name}
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_adapters_start_alike_for_one_seed_and_wrong_targets_are_refused(teacher_of):
    ours = teacher_of("sd_eps")
    made = [dict(with_lora(ours.denoiser(), 2, ("to_q",))[0].named_parameters()) for _ in range(2)]
    assert all(torch.equal(made[0][key], made[1][key]) for key in made[0])
    with pytest.raises(UserError, match="no layer of the teacher is called to_z"):
        with_lora(ours.denoiser(), 2, ("to_z",))
