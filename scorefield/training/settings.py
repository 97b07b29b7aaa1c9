"""Configuration of a run, as the core sees it; a task extends ``RunConfig`` with sections of its own."""

from dataclasses import dataclass, field
from typing import Any

from scorefield.errors import UserError, check_number, suggest
from scorefield.registry import check_value

SHARDINGS = ("none", "fsdp2")
OPTIMIZERS = ("adamw", "adamw_8bit")
EMA_DEVICES = ("device", "cpu")
ROLES = ("teacher", "online", "generator")
DROPOUTS = ("none", "trained", "matched")
FREE = {"free": True}  # a section whose keys are checked by the part that it names


@dataclass
class PlayerConfig:
    """Optimizer of one trained network."""

    optimizer: str = "adamw"  # torch's, fused; or "adamw_8bit", torchao's: its moments take a quarter of the memory
    learning_rate: float = 1e-5
    betas: tuple[float, float] = (0.0, 0.999)  # SiD and SIM: no momentum
    weight_decay: float = 0.0
    eps: float = 1e-8
    warmup_iterations: int = 0  # linear, from 0
    decay: str = "none"  # "none" or "cosine", down to 1 % where the iterations end
    clip_norm: float = 0.0  # gradient norm; 0 = measured but not clipped

    def __post_init__(self) -> None:
        if self.decay not in ("none", "cosine"):
            raise UserError(f'learning-rate decay "{self.decay}" is unknown: {suggest(self.decay, ["none", "cosine"])}')
        if self.optimizer not in OPTIMIZERS:
            raise UserError(f'optimizer "{self.optimizer}" is unknown: {suggest(self.optimizer, OPTIMIZERS)}')
        check_number("learning_rate", self.learning_rate, 0, above=True)
        for beta in self.betas:
            check_number("each of betas", beta, 0, 1)
        for name in ("weight_decay", "eps", "warmup_iterations", "clip_norm"):
            check_number(name, getattr(self, name), 0)


@dataclass
class TrainingConfig:
    """The alternating trainer."""

    iterations: int = 1000  # generator updates
    seed: int = 0
    device: str = "auto"  # auto, cpu, cuda, mps
    precision: str = "fp32"  # fp32, or bf16 autocast over fp32 weights
    batch: int = 64  # samples per iteration, over all processes and accumulation steps
    accumulation: int = 1  # micro-batches per update
    # "none": every process holds all three roles (DDP); "fsdp2": each holds a share of them (docs/distributed.md)
    sharding: str = "none"
    online_updates: int = 1  # online-score updates per generator update
    online_warmup: int = 0  # first iterations in which the online score alone learns
    fresh_samples: bool = False  # True: the online score sees samples of its own (SiD's dropout recipe)
    # which networks are in training mode, with their dropout: "none", "trained" (the one that learns, as SiD does)
    # or "matched" (Diff-Instruct: in the generator's update teacher and online score drop the same)
    dropout: str = "none"
    guidance_scale: float = 1.0  # teacher; 1 = off, uncond + s * (cond - uncond)
    # {iteration: the teacher's scale from there on}
    guidance_stages: dict[int, float] = field(default_factory=dict, metadata=FREE)
    online_guidance_scale: float = 1.0  # online score in the generator's update
    online_training_guidance_scale: float = 1.0  # online score while it is trained (SiD-LSG guides it too)
    online_prompt_dropout: float = 0.0  # share of samples of which the online score learns with the empty condition
    split_guidance: bool = False  # two calls instead of one doubled batch: slower, half the memory
    # roles whose activations are computed again in the backward pass instead of kept: teacher, online, generator; each
    # costs one more forward pass
    activation_checkpointing: list[str] = field(default_factory=list)
    generator: PlayerConfig = field(default_factory=PlayerConfig)
    online: PlayerConfig = field(default_factory=PlayerConfig)
    generator_noise: dict[str, Any] = field(
        default_factory=lambda: {"name": "karras", "u_min": 0.0, "u_max": 0.8}, metadata=FREE
    )
    online_noise: dict[str, Any] = field(
        default_factory=lambda: {"name": "log_normal", "mean": -1.2, "std": 1.2}, metadata=FREE
    )
    online_weighting: str = "edm"
    sigma_data: float = 1.0  # standard deviation of the data: 1 for normalised latents, 0.5 for pixels
    ema_half_life_images: float = 500_000
    ema_rampup: float = 0.05  # half-life is at most this share of the images seen
    ema_device: str = (
        "device"  # where the average lies: "device", or "cpu", host memory, copied to beside the iteration
    )
    # the generator follows an average of the online score over this half-life of its samples; 0: the newest one
    online_half_life_images: float = 0.0
    compile: bool = False
    log_every: int = 10

    def __post_init__(self) -> None:
        if self.precision not in ("fp32", "bf16"):
            raise UserError(f'training.precision "{self.precision}" is unknown: use fp32 or bf16')
        if self.sharding not in SHARDINGS:
            raise UserError(f'training.sharding "{self.sharding}" is unknown: {suggest(self.sharding, SHARDINGS)}')
        if self.ema_device not in EMA_DEVICES:
            raise UserError(
                f'training.ema_device "{self.ema_device}" is unknown: {suggest(self.ema_device, EMA_DEVICES)}'
            )
        if self.ema_device == "cpu" and self.sharding != "none":
            raise UserError("training.ema_device=cpu is for whole networks: with training.sharding use device")
        for role in self.activation_checkpointing:
            if role not in ROLES:
                raise UserError(f'training.activation_checkpointing: "{role}" is no role: {suggest(role, ROLES)}')
        for name in ("iterations", "batch", "accumulation", "online_updates", "log_every"):
            if getattr(self, name) < 1:
                raise UserError(f"training.{name} must be at least 1, not {getattr(self, name)}")
        check_number("training.sigma_data", self.sigma_data, 0, above=True)
        for name in ("guidance_scale", "online_guidance_scale", "online_training_guidance_scale"):
            check_number(f"training.{name}", getattr(self, name))
        check_number("training.online_prompt_dropout", self.online_prompt_dropout, 0, 1)
        for start, scale in self.guidance_stages.items():
            if not isinstance(start, int) or start < 0:
                raise UserError(f"training.guidance_stages must map iterations from 0 to scales, not {start!r}")
            check_value(f"training.guidance_stages: the scale from iteration {start} on", scale, float)
        for name in ("ema_half_life_images", "ema_rampup", "online_half_life_images"):
            check_number(f"training.{name}", getattr(self, name), 0)
        if not 0 <= self.online_warmup < self.iterations:
            raise UserError(
                f"training.online_warmup {self.online_warmup} must be at least 0 and leave some of the "
                f"{self.iterations} iterations"
            )
        if self.online_half_life_images and self.sharding != "none":
            raise UserError("training.online_half_life_images keeps whole weights: use training.sharding=none with it")
        if self.dropout not in DROPOUTS:
            raise UserError(f'training.dropout "{self.dropout}" is unknown: {suggest(self.dropout, DROPOUTS)}')
        if self.dropout == "trained" and not self.fresh_samples:
            raise UserError(
                "training.dropout=trained needs training.fresh_samples=true: the generator drops nothing in what the "
                "online score learns from"
            )
        if self.batch % self.accumulation:
            raise UserError(
                f"training.batch {self.batch} does not divide into training.accumulation {self.accumulation} parts"
            )

    def guidance_at(self, iteration: int) -> float:
        """The teacher's guidance scale of an iteration."""
        passed = [k for k in self.guidance_stages if k <= iteration]
        return self.guidance_stages[max(passed)] if passed else self.guidance_scale


@dataclass
class CheckpointConfig:
    """When the run is saved; SIGTERM, SIGUSR1 and Ctrl-C save as well."""

    every: int = 200  # iterations
    keep: int = 2  # newest ones kept, beside "best" and the last
    asynchronous: bool = False  # written by a thread from a copy in host memory, while training goes on

    def __post_init__(self) -> None:
        if self.every < 1 or self.keep < 1:
            raise UserError("checkpoints.every and checkpoints.keep must be at least 1")


ACTIONS = ("warn", "stop", "rollback")


@dataclass
class MonitorsConfig:
    """Failure monitors (``scorefield.monitors``); they look whenever a checkpoint is due."""

    enabled: list[str] = field(
        default_factory=lambda: ["noise", "saturation", "brightness", "texture", "diversity", "lag"]
    )
    lines: dict[str, float] = field(default_factory=dict, metadata=FREE)  # a monitor's name: its line
    grace: float = 0.05  # share of the iterations before which nothing is said
    patience: int = 1  # looks in a row beyond the line before it counts
    action: str = "warn"  # or "stop", or "rollback" to the last checkpoint that every monitor found good
    rollbacks: int = 2  # at most, then stop; each halves both learning rates

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            raise UserError(f'monitors.action "{self.action}" is unknown: {suggest(self.action, ACTIONS)}')
        if self.patience < 1 or not 0 <= self.grace <= 1:
            raise UserError("monitors.patience must be at least 1 and monitors.grace between 0 and 1")


@dataclass
class RunConfig:
    """What every task's configuration holds."""

    task: str = ""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    loss: dict[str, Any] = field(default_factory=lambda: {"name": "sim"}, metadata=FREE)
    # {iteration: the loss from there on, written as ``loss`` is}
    loss_stages: dict[int, Any] = field(default_factory=dict, metadata=FREE)
    checkpoints: CheckpointConfig = field(default_factory=CheckpointConfig)
    monitors: MonitorsConfig = field(default_factory=MonitorsConfig)
    # tensorboard, wandb and others that accelerate knows; none: nothing leaves the run folder
    trackers: list[str] = field(default_factory=list)

    def build_loss(self):
        """The loss object; raises UserError for an unknown name or option."""
        return self._build(self.loss)

    def build_later_losses(self) -> dict[int, Any]:
        """The objects of ``loss_stages`` by their first iteration.

        Raises UserError for a key that is no later iteration of the run, and for a loss that does not take over.
        """
        found = {}
        for start, options in self.loss_stages.items():
            if not isinstance(start, int) or not 0 < start < self.training.iterations:
                raise UserError(
                    f"loss_stages: {start} is none of the iterations 1 to {self.training.iterations - 1} that a loss "
                    "can take over at"
                )
            if not isinstance(options, dict) or "name" not in options:
                raise UserError(f"loss_stages.{start} must name its loss, as in {{name: sds}}, not {options}")
            found[start] = self._build(options)
            if "paired_x0" in found[start].needs:
                raise UserError(f"loss_stages.{start}: pairs are drawn for the first loss alone, not for {options}")
        return found

    def _build(self, given: dict[str, Any]):
        from scorefield import losses

        options = dict(given)
        options.setdefault("sigma_data", self.training.sigma_data)
        return losses.build(options.pop("name", "sim"), **options)
