"""The alternation: one iteration is K online-score updates, then one generator update.

Read ``Trainer.iteration`` first. Nothing here knows what the generator is, what the teacher predicts natively
or which loss was chosen.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from scorefield import noise_laws
from scorefield.denoiser import Denoiser, Guided, replace
from scorefield.errors import UserError
from scorefield.generators.base import Batch, Changes, Generator
from scorefield.losses.base import Loss
from scorefield.noise import spread
from scorefield.random import Draws
from scorefield.training.clock import PhaseClock
from scorefield.training.compiling import compile_roles
from scorefield.training.evaluations import Evaluations
from scorefield.training.host_average import HostAverage
from scorefield.training.parameters import frozen, trainable
from scorefield.training.player import MovingAverage, Player
from scorefield.training.recompute import Recompute
from scorefield.training.rows import clean_rows, finite_rows
from scorefield.training.settings import TrainingConfig
from scorefield.training.sharding import Sharding
from scorefield.training.steady import SteadyScore


@dataclass
class Sample:
    """Draws, what they became, and the picture ``x0`` (with its graph in a shared iteration)."""

    draws: Draws
    batch: Batch
    x0: Tensor


class Trainer:
    """Trains ``generator`` so that its noised samples score alike under ``teacher`` and ``online``.

    Args:
        teacher: frozen; online: trained on the generator's samples; generator: trained on the loss.
        loss: from ``scorefield.losses.build``, or several by the iteration from which each holds, 0 among them.
        accelerator: made for the configured device if left out.

    Raises:
        UserError: the device is not there, or the loss needs a tensor that the trainer cannot give.
    """

    def __init__(
        self,
        config: TrainingConfig,
        teacher: Denoiser,
        online: Denoiser,
        generator: Generator,
        loss: Loss | Mapping[int, Loss],
        accelerator: Accelerator | None = None,
    ):
        self.config = config
        self.accelerator = accelerator or make_accelerator(config)
        device = self.device = self.accelerator.device
        world = self.accelerator.num_processes
        if config.batch % (world * config.accumulation):
            raise UserError(f"training.batch {config.batch} does not divide among {world} processes")
        self.sharding = Sharding(self.accelerator) if config.sharding == "fsdp2" else None
        if self.sharding:  # before anything is moved whole, and before optimizers and average take hold of parameters
            self.sharding.shard(teacher, online, generator)
        teacher.to(device).eval()
        # under LoRA the teacher's weights carry the online adapters: only a separate teacher is frozen whole
        if not any(p is q for p in teacher.parameters() for q in trainable(online)):
            teacher.requires_grad_(False)
        self.teacher = Guided(teacher, config.guidance_scale, config.split_guidance)
        stages = loss if isinstance(loss, Mapping) else {0: loss}
        self.stages = {start: Evaluations(one, self.teacher, config.iterations) for start, one in stages.items()}
        self.evaluations, self.loss = self.stages[0], self.stages[0].loss
        if config.online_prompt_dropout and any(stage.loss.online_pull for stage in self.stages.values()):
            raise UserError("training.online_prompt_dropout: this loss holds the online score to the prompted teacher")
        self.online, self.generator = online.to(device), generator.to(device).train()
        self.online_guided = Guided(online, config.online_guidance_scale, config.split_guidance)
        self.online_player = Player([{"params": trainable(online)}], config.online, config.iterations)
        self.generator_player = Player(generator.parameter_groups(), config.generator, config.iterations)
        average = HostAverage if config.ema_device == "cpu" and device.type != "meta" else MovingAverage
        self.average = average(generator.averaged(), config.ema_half_life_images, config.ema_rampup)
        self.steady = SteadyScore(online, config.online_half_life_images)
        learner = Guided(online, config.online_training_guidance_scale, config.split_guidance)
        self.online_call, self.generator_call = self._wrap(learner), self._wrap(generator)
        if config.compile:
            compile_roles((teacher, online, getattr(generator, "denoiser", None)))
        networks = {"teacher": teacher, "online": online, "generator": generator}
        self.recompute = Recompute(
            config.activation_checkpointing, networks, blockwise=not config.compile, repeat=self._repeated
        )
        self.online_noise = noise_laws.build(config.online_noise, teacher)
        self.generator_noise = noise_laws.build(config.generator_noise, teacher)
        self.weighting = noise_laws.online_weighting(config.online_weighting, config.sigma_data)
        self.clock = PhaseClock(device)
        self.images = 0
        self.nan_samples = torch.zeros((), device=device)
        self.seen: dict[str, Tensor] = {}
        self.online_terms: set[str] = set()  # names of figures that come with the online score's updates
        self.updates = 0  # of the generator, since the last figures

    def _wrap(self, module: nn.Module):
        """The module under DDP where several processes hold it whole, else itself."""
        if self.accelerator.num_processes == 1 or self.sharding:
            return module
        partial = getattr(module, "partial", False)
        self.accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=partial)
        return self.accelerator.prepare_model(module)

    def _autocast(self) -> torch.autocast:
        """bf16 matrix products where they were asked for.

        The cache is off: a weight first cast without a graph would be reused, graphless, by a later pass that needs
        its gradient (networks here are run in both ways within one iteration).
        """
        wanted = self.config.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=wanted, cache_enabled=False)

    # ------------------------------------------------------------------ one iteration, top to bottom

    def iteration(self, k: int) -> None:
        """Iteration ``k`` (from 0): ``online_updates`` of the online score, one of the generator (after a warm-up)."""
        config, parts = self.config, self._parts(k)
        self.teacher.scale = config.guidance_at(k)
        if len(self.stages) > 1:
            self.evaluations = self.stages[max(start for start in self.stages if start <= k)]
            self.loss = self.evaluations.loss
        # One sample with its graph serves both updates; accumulation renders again to hold one graph at a time.
        shared = [self._render(parts[0])] if len(parts) == 1 and not config.fresh_samples else None

        for update in range(config.online_updates if self.loss.needs_online else 0):
            for place, draws in enumerate(parts):
                if shared:
                    sample = shared[0]
                else:
                    salt = f"fresh-{update}" if config.fresh_samples else ""
                    with torch.no_grad(), self._mode(self.generator, self.config.dropout == "none"):
                        sample = self._render(Draws(draws.seed, k, draws.indices, salt, draws.host))
                with self._synced(self.online_call, place == len(parts) - 1), self.clock("online"):
                    self.accelerator.backward(self._online_loss(sample, update))
            with self.clock("optimizer"):
                self.online_player.step(k)
                self.steady.update(config.batch)
        if k < config.online_warmup:  # the generator waits until its score is known
            return

        self.updates += 1
        for place, draws in enumerate(parts):
            with self._synced(self.generator_call, place == len(parts) - 1), self.steady.read():
                sample = shared[0] if shared else self._render(draws)
                loss = self._generator_loss(sample, k)
                with self.clock("backward"):
                    self.accelerator.backward(loss)
        with self.clock("optimizer"):
            self.average.before_step()
            self.generator_player.step(k)
            self.images += config.batch
            self.average.update(config.batch, self.images)
        if changes := self.generator.after_step(k):
            self.apply(changes)

    def apply(self, changes: Changes) -> None:
        """Let optimizer, average and the processes' exchange of gradients follow changed parameters."""
        self.generator_player.apply(changes)
        self.average.follow(changes, self.generator.averaged())
        self.generator_call = self._wrap(self.generator)

    def _render(self, draws: Draws) -> Sample:
        with self.clock("generator"), self._dropping(draws, "generator"), self._autocast():
            batch = self.generator.draw(draws)
            return Sample(draws, batch, self.generator_call(batch).float())

    def _online_loss(self, sample: Sample, update: int) -> Tensor:
        """Weighted denoising error of the online score on the generator's samples."""
        x0, draws = sample.x0.detach(), sample.draws
        whole = finite_rows(x0)
        clean = clean_rows(x0, whole)
        x0, condition = self.generator.online_view(clean, sample.batch.online_condition, draws)
        if share := self.config.online_prompt_dropout:
            dropped = draws.uniform(f"online-prompt-{update}") < share
            condition = replace(condition, self.online.null_condition(condition), dropped)
        sigma = noise_laws.law_at(self.online_noise, draws.iteration)(draws.uniform(f"online-sigma-{update}"))
        x_t = x0 + spread(sigma, x0) * draws.normal(f"online-eps-{update}", *x0.shape[1:])
        with self._mode(self.online, self.config.dropout != "none"), self._dropping(draws, f"online-{update}"):
            with self._autocast():
                online_x0 = self.online_call(x_t, sigma, condition).float()
            terms = self.generator.regularize_online(clean, sample.batch)
        good = finite_rows(online_x0) & whole
        error = (clean_rows(online_x0, good) - x0).square().flatten(1).mean(1) * good
        if self.loss.online_pull:
            if x0 is not clean:
                raise UserError("this loss holds the online score to the teacher: it must not see augmented pictures")
            with torch.no_grad(), self._autocast():
                teacher_x0 = self.teacher(x_t, sigma, sample.batch.teacher_condition).float()
            good = good & finite_rows(teacher_x0)
            gap = (clean_rows(online_x0, good) - clean_rows(teacher_x0, good)).square().flatten(1).mean(1)
            error = error * good + self.loss.online_pull * gap
        loss = self._mean(self.weighting(sigma) * error)
        self._note("loss/online", loss)
        for name, term in terms.items():
            self._note(f"loss/{name}", term)
            self.online_terms.add(f"loss/{name}")
            loss = loss + term / self.config.accumulation
        return loss

    def _generator_loss(self, sample: Sample, k: int) -> Tensor:
        """The chosen loss at a fresh noise level, with the networks' parameters frozen."""
        draws, batch, x0 = sample.draws, sample.batch, sample.x0
        if x0.requires_grad:
            x0.register_hook(lambda g: clean_rows(g, finite_rows(g)))
        whole = finite_rows(x0)
        x0 = clean_rows(x0, whole)
        sigma = noise_laws.law_at(self.generator_noise, k)(draws.uniform("sigma"))
        with self.clock("teacher"), self._autocast():
            x_t, extra = self.evaluations.point(x0, sigma, draws, batch, k)
        jacobian = self.loss.needs_jacobian
        with frozen(self.online), torch.set_grad_enabled(jacobian), self._autocast():
            seen = x_t if jacobian else x_t.detach()
            with self.clock("teacher"):
                ask = partial(self.evaluations.ask, sigma=sigma, batch=batch)
                teacher_x0, asked = self._ask(ask, "teacher", self.teacher.denoiser, seen, draws)
            online_x0 = torch.zeros_like(teacher_x0)  # a loss without an online score never reads it
            if self.loss.needs_online:
                with self.clock("online_forward"):
                    ask = partial(self.online_guided, sigma=sigma, condition=batch.online_condition)
                    online_x0 = self._ask(ask, "online", self.online, seen, draws).float()
        extra |= asked
        good = whole & finite_rows(teacher_x0) & finite_rows(online_x0)
        for value in (x_t.detach(), *extra.values()):
            good = good & finite_rows(value)
        self.nan_samples += self.accelerator.reduce((~good).sum().float(), "sum")  # the same count in every process
        teacher_x0, online_x0 = clean_rows(teacher_x0, good), clean_rows(online_x0, good)
        extra = {key: clean_rows(value, good) for key, value in extra.items()}
        losses = self.loss(x0=x0, x_t=x_t, sigma=sigma, teacher_x0=teacher_x0, online_x0=online_x0, **extra)
        factors = self.generator.weigh(x_t.detach(), sigma, batch)
        if factors is not None:
            losses = losses * factors.detach()
        loss = self._mean(clean_rows(losses, good))
        self._note("loss/generator", loss)
        with torch.no_grad():
            if self.loss.needs_teacher:
                gap = (teacher_x0 - online_x0).square().flatten(1).mean(1)
                self._note("x0_gap/rms", self._mean(gap))  # the root is taken of its average
            self._note("sigma/mean", self._mean(sigma))
            self._note("x0/std", x0.std())
            self._note("x0/mean", x0.mean())
        for name, term in self.generator.regularize(x0, batch, k).items():
            self._note(f"loss/{name}", term)
            loss = loss + term / self.config.accumulation
        return loss

    def _ask(self, ask: Callable[[Tensor], Any], role: str, network: Denoiser, x_t: Tensor, draws: Draws) -> Any:
        """What a score says at ``x_t``; where a Jacobian is needed its activations may be computed twice, not kept."""

        def call(seen: Tensor) -> Any:  # all that holds within also holds when it is called again, in the backward pass
            dropping = self.config.dropout == "matched"
            with frozen(self.online), self._mode(network, dropping), self._dropping(draws, "scores"):
                return ask(seen)

        if role in self.recompute.whole and torch.is_grad_enabled():
            return checkpoint(call, x_t, use_reentrant=False)
        return call(x_t)

    def _repeated(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """``call`` as it can be made again in the backward pass; torch's checkpoint sees to autocast and dropout."""
        return call

    # ------------------------------------------------------------------ small print

    @contextmanager
    def _mode(self, module: nn.Module, training: bool) -> Iterator[None]:
        """``module`` in training or evaluation mode within; where no dropout is wanted its mode is left alone."""
        before = module.training
        if self.config.dropout == "none" or before == training:
            yield
            return
        module.train(training)
        try:
            yield
        finally:
            module.train(before)

    @contextmanager
    def _dropping(self, draws: Draws, stream: str) -> Iterator[None]:
        """torch's own random numbers, which dropout uses, keyed by a micro-batch's first sample: a resumed run drops
        alike, one that is split otherwise does not."""
        if self.config.dropout == "none":
            yield
            return
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            first = Draws(draws.seed, draws.iteration, draws.host_indices()[:1], draws.salt)  # the device need not wait
            torch.manual_seed(int(first.bits(f"dropout-{stream}", 1)[0, 0]) & 0x7FFFFFFFFFFFFFFF)
            yield

    def _parts(self, k: int) -> list[Draws]:
        """The draws of this process, one per micro-batch, keyed by place in the global batch."""
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        local = self.config.batch // world
        host = torch.arange(rank * local, (rank + 1) * local)
        indices = torch.arange(rank * local, (rank + 1) * local, device=self.device)
        parts = zip(indices.chunk(self.config.accumulation), host.chunk(self.config.accumulation), strict=True)
        return [Draws(self.config.seed, k, part, host=same) for part, same in parts]

    def _mean(self, values: Tensor) -> Tensor:
        """Sum over this micro-batch by its share of the process's batch, so that updates average over all."""
        return values.sum() * (self.accelerator.num_processes / self.config.batch)

    def _note(self, name: str, value: Tensor) -> None:
        value = value.detach()
        self.seen[name] = self.seen.get(name, torch.zeros_like(value)) + value

    @contextmanager
    def _synced(self, module: nn.Module, last: bool) -> Iterator[None]:
        """Exchange gradients between processes on the last micro-batch only (shares of whole networks: on each)."""
        if self.sharding:
            with self.sharding.exchanging(last):
                yield
        elif last or self.accelerator.num_processes == 1:
            yield
        else:
            with self.accelerator.no_sync(module):
                yield

    def figures(self, iterations: int) -> dict[str, float]:
        """Averages since the last call over ``iterations`` and all processes; the one place where the host waits."""
        scale = dict.fromkeys({"loss/online", *self.online_terms}, iterations * self.config.online_updates)
        shares = self.config.accumulation
        averaged = {"loss/online", "loss/generator", "sigma/mean", "x0_gap/rms"}
        seen = torch.stack([*self.seen.values(), self.generator_player.norm, self.online_player.norm])
        means = self.accelerator.reduce(seen, "mean").tolist()
        values = {
            name: value / scale.get(name, max(self.updates, 1)) / (1 if name in averaged else shares)
            for name, value in zip(self.seen, means, strict=False)
        }
        if "x0_gap/rms" in values:
            values["x0_gap/rms"] **= 0.5
        values["grad_norm/generator"], values["grad_norm/online"] = means[-2:]
        values["nan_samples"] = int(self.nan_samples)
        values["skipped_steps"] = int(self.generator_player.skipped + self.online_player.skipped)
        self.seen, self.updates = {}, 0
        return values

    def state(self) -> dict:
        """Everything that a resumed run needs beside the networks' weights and, if they are sharded, their moments."""
        players = {"generator_optimizer": self.generator_player, "online_optimizer": self.online_player}
        optimizers = {name: player.optimizer.state_dict() for name, player in players.items()}
        return (optimizers if self.sharding is None else {}) | {
            "images": self.images,
            "online_average": self.steady.state_dict(),
            "nan_samples": int(self.nan_samples),
            "skipped": [int(self.generator_player.skipped), int(self.online_player.skipped)],
            "rate_scale": self.generator_player.rate_scale,
        }

    def load_state(self, state: dict) -> None:
        """Take back what ``state`` gave."""
        if self.sharding is None:
            self.generator_player.optimizer.load_state_dict(state["generator_optimizer"])
            self.online_player.optimizer.load_state_dict(state["online_optimizer"])
        self.steady.load_state_dict(state.get("online_average", {}))
        self.images = state["images"]
        self.nan_samples.fill_(state["nan_samples"])
        for player, count in zip((self.generator_player, self.online_player), state["skipped"], strict=True):
            player.skipped.fill_(count)
            player.rate_scale = state["rate_scale"]


def make_accelerator(config: TrainingConfig) -> Accelerator:
    """accelerate's object for the asked device.

    It keeps one precision for the life of a process, so precision is none of its business: see ``Trainer._autocast``.
    """
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("training.device is cuda, but this machine offers no CUDA device: use training.device=cpu")
    if device == "mps" and not torch.backends.mps.is_available():
        raise UserError("training.device is mps, but this machine offers no Metal device: use training.device=cpu")
    if device not in ("cpu", "cuda", "mps"):
        raise UserError(f'training.device "{device}" is unknown: use auto, cpu, cuda or mps')
    return Accelerator(cpu=device == "cpu", mixed_precision="no")
