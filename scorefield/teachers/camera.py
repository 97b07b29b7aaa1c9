"""An online score that hears the camera: 16 numbers of the pose, added to the network's time embedding.

ProlificDreamer (arXiv:2305.16213): Linear 16 -> C, SiLU, Linear C -> C on the flattened camera-to-world matrix. The
last layer starts at zero, so that the score starts as the teacher.
"""

import torch
from torch import Tensor, nn

from scorefield.denoiser import Condition, Denoiser
from scorefield.errors import UserError
from scorefield.teachers.shared import AdapterView

POSE = 16
# where diffusers' networks make the embedding of the timestep that all blocks read
TIME_EMBEDDINGS = ("adaln_single.emb", "time_embedding", "time_text_embed", "time_embed")


def time_embedding(denoiser: Denoiser) -> nn.Module:
    """The module whose output is the time embedding; raises UserError when the network has none that is known."""
    # a view of shared weights does not hold the network as a submodule
    modules = dict((denoiser.base if isinstance(denoiser, AdapterView) else denoiser).named_modules())
    for name in TIME_EMBEDDINGS:
        for place, module in modules.items():
            if place == name or place.endswith("." + name):
                return module
    raise UserError(
        f"the online score cannot be told the camera: {type(denoiser).__name__} has no time embedding under the names "
        f"{', '.join(TIME_EMBEDDINGS)} (online.camera=false does without)"
    )


class CameraTold(Denoiser):
    """A denoiser that takes ``pose`` [B, 16] in its condition beside what the network takes.

    The embedding is changed during this object's own calls only, so that a teacher on the same weights stays as it is.

    Args:
        denoiser: around a network with a time embedding of ``channels`` numbers.
    """

    def __init__(self, denoiser: Denoiser, channels: int | None = None):
        super().__init__()
        self.denoiser = denoiser
        self.sigma_min, self.sigma_max = denoiser.sigma_min, denoiser.sigma_max
        module = time_embedding(denoiser)
        channels = channels or out_features(module)
        last = nn.Linear(channels, channels)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.projection = nn.Sequential(nn.Linear(POSE, channels), nn.SiLU(), last)
        self._told: Tensor | None = None
        module.register_forward_hook(self._add)

    def _add(self, module: nn.Module, inputs: tuple, output: Tensor) -> Tensor | None:
        return None if self._told is None else output + self._told.to(output.dtype)

    def forward(self, x_t: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        rest = {key: value for key, value in condition.items() if key != "pose"}
        self._told = self.projection(condition["pose"].float())
        try:
            return self.denoiser(x_t, sigma, rest)
        finally:
            self._told = None

    def null_condition(self, like: Condition) -> Condition:
        rest = {key: value for key, value in like.items() if key != "pose"}
        return {**self.denoiser.null_condition(rest), "pose": torch.zeros_like(like["pose"])}


class Deaf(Denoiser):
    """A denoiser to which the pose in the condition is not passed on."""

    def __init__(self, denoiser: Denoiser):
        super().__init__()
        self.denoiser = denoiser
        self.sigma_min, self.sigma_max = denoiser.sigma_min, denoiser.sigma_max

    def forward(self, x_t: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        return self.denoiser(x_t, sigma, {key: value for key, value in condition.items() if key != "pose"})

    def null_condition(self, like: Condition) -> Condition:
        null = self.denoiser.null_condition({key: value for key, value in like.items() if key != "pose"})
        return {**null, "pose": like["pose"]}


def out_features(module: nn.Module) -> int:
    """Width of a module's output: that of its last linear layer."""
    linear = [part for part in module.modules() if isinstance(part, nn.Linear)]
    if not linear:
        raise UserError(f"the online score cannot be told the camera: its {type(module).__name__} has no linear layer")
    return linear[-1].out_features
