"""Activation checkpointing, role by role: the same gradients from fewer kept activations."""

import copy

import pytest
import torch

from scorefield import losses
from scorefield.cost.ledger import Ledger
from scorefield.errors import UserError
from scorefield.generators.few_step import FewStepGenerator
from scorefield.generators.one_step import OneStepGenerator
from scorefield.teachers.shared import Adapter, share
from scorefield.training.recompute import cuttable
from scorefield.training.settings import PlayerConfig, TrainingConfig
from scorefield.training.trainer import Trainer
from tests.teachers import families

from .test_trainer import make as make_linear

EACH = ["teacher", "online", "generator"]
CASES = [[role] for role in EACH] + [EACH]
FAMILIES = ["sd_eps", "sdxl", "pixart_sigma", "sd3", "flux_dev", "sana", "dit"]


@pytest.fixture(scope="module")
def base_of(tmp_path_factory):
    made = {}

    def get(name: str):
        if name not in made:
            ours = families.teacher(name, families.write(name, tmp_path_factory.mktemp(name) / "pipeline"))
            prompts = ["thing 7", "item 3"] if name == "dit" else ["a red chair", "a boat"]
            made[name] = ours, ours.denoiser(), ours.encode(prompts)
        return made[name]

    return get


def trainer_of(base_of, name: str, roles: list[str], lora: bool, kind=OneStepGenerator, **settings) -> Trainer:
    """A trainer of a family's networks whose student and online score are no longer the teacher."""
    ours, base, text = base_of(name)
    base = copy.deepcopy(base)
    if lora:
        teacher, views = share(base, {"generator": Adapter(2), "online": Adapter(2)})
        student, online = views["generator"], views["online"]
        changed = [p for view in views.values() for n, p in view.named_parameters() if "lora_B" in n]
    else:
        teacher = base.requires_grad_(False)
        student, online = (copy.deepcopy(base).requires_grad_(True) for _ in range(2))
        changed = [*student.parameters(), *online.parameters()]
    rng = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in changed:
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=rng))
    player = PlayerConfig(learning_rate=1e-3)
    training = TrainingConfig(
        iterations=4, batch=2, device="cpu", guidance_scale=2.0, generator=player, online=player,
        activation_checkpointing=roles, **settings,
    )  # fmt: skip

    def conditions(draws):
        told = {key: value[draws.indices] for key, value in text.items()}
        return told, told

    generator = kind(student, ours.latent_shape, 2.5, conditions)
    return Trainer(training, teacher, online, generator, losses.build("sim"))


def gradients(trainer: Trainer, monkeypatch) -> list[torch.Tensor]:
    """Of both trained roles in one iteration: what the optimizers are given."""
    found = []

    def noted(player):
        def step(iteration):
            found.extend(torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in player.parameters)
            player.optimizer.zero_grad(set_to_none=True)

        return step

    for player in (trainer.online_player, trainer.generator_player):
        monkeypatch.setattr(player, "step", noted(player))
    trainer.iteration(0)
    return found


def same(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    assert len(found) == len(expected)
    largest = max(g.abs().max() for g in expected)
    assert largest > 0
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6 * float(largest))


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_are_the_same_in_every_family(name, lora, base_of, monkeypatch):
    expected = gradients(trainer_of(base_of, name, [], lora), monkeypatch)
    same(gradients(trainer_of(base_of, name, EACH, lora), monkeypatch), expected)


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("roles", CASES)
def test_each_role_recomputes_alone(roles, lora, base_of, monkeypatch):
    """Counted by the blocks that are run on the way back."""
    calls = {}
    for asked in ([], roles):
        trainer = trainer_of(base_of, "pixart_sigma", asked, lora)
        count = [0]
        networks = {id(n): n for role in (trainer.teacher, trainer.online, trainer.generator) for n in cuttable(role)}
        for block in (block for network in networks.values() for block in network.transformer_blocks):
            block.register_forward_pre_hook(lambda *_, count=count: count.__setitem__(0, count[0] + 1))
        found = gradients(trainer, monkeypatch)
        calls[tuple(asked)] = count[0], found
    (plain, expected), (more, found) = calls[()], calls[tuple(roles)]
    same(found, expected)
    depth = len(base_of("pixart_sigma")[1].network.transformer_blocks)
    passes = {"teacher": 1, "generator": 1, "online": 2}  # with a graph, in one iteration
    assert more - plain == depth * sum(passes[role] for role in roles)


def test_a_few_step_student_and_accumulation_recompute_too(base_of, monkeypatch):
    settings = {"kind": FewStepGenerator, "accumulation": 2, "precision": "bf16"}
    expected = gradients(trainer_of(base_of, "sd_eps", [], True, **settings), monkeypatch)
    same(gradients(trainer_of(base_of, "sd_eps", EACH, True, **settings), monkeypatch), expected)


def test_less_is_kept(base_of):
    """What stands between forward and backward pass of a student, in bytes."""
    held = []
    for roles in ([], ["generator"]):
        trainer = trainer_of(base_of, "pixart_sigma", roles, False)
        ledger = Ledger(torch.device("cpu"))
        with ledger:
            sample = trainer._render(trainer._parts(0)[0])
        held.append(ledger.live["activations"])
        assert sample.x0.requires_grad
    assert held[1] < 0.5 * held[0]


def test_adapters_and_flags_are_as_before_after_the_backward_pass(base_of):
    trainer = trainer_of(base_of, "sd_eps", EACH, True)
    before = [p.requires_grad for p in trainer.teacher.denoiser.base.parameters()]
    trainer.iteration(0)
    assert [p.requires_grad for p in trainer.teacher.denoiser.base.parameters()] == before
    assert all(layer._disable_adapters for layer in trainer.teacher.denoiser.layers)


def test_networks_without_blocks_recompute_whole_and_generators_without_are_refused():
    plain, again = (make_linear(activation_checkpointing=roles) for roles in ([], ["teacher", "online"]))
    assert again.recompute.whole == {"teacher", "online"}
    for trainer in (plain, again):
        trainer.iteration(0)
    assert torch.equal(plain.generator.scale, again.generator.scale)
    with pytest.raises(UserError, match="this generator has no blocks"):
        make_linear(activation_checkpointing=["generator"])
    with pytest.raises(UserError, match=r'"student" is no role: .*Known: generator, online, teacher'):
        make_linear(activation_checkpointing=["student"])


def test_a_discriminator_that_stops_half_way_gets_the_same_gradient(base_of):
    """``encode`` leaves the network at its middle: what lies before it is recomputed, what lies behind is not run."""
    found = []
    for roles in ([], ["online"]):
        trainer = trainer_of(base_of, "pixart_sigma", roles, False)
        ours, _, text = base_of("pixart_sigma")
        z = families.start(ours.latent_shape).requires_grad_(True)
        trainer.online.encode(z, torch.full((2,), 0.7), text).square().sum().backward()
        found.append([z.grad, *(p.grad for p in trainer.online.parameters() if p.grad is not None)])
    same(found[1], found[0])
