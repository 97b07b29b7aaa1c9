"""A diffusers network as a denoiser in sigma, whatever it predicts natively; and its noise process from a scheduler."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from scorefield.denoiser import Condition, Denoiser
from scorefield.errors import UserError
from scorefield.noise import DiscreteVP, RectifiedFlow, convert
from scorefield.teachers.features import as_map, output_of

FORMS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}


def process_of(settings: Mapping[str, Any]) -> tuple[DiscreteVP | RectifiedFlow, str]:
    """Noise process and prediction form ("eps", "v", "x0" or "flow") of a diffusers scheduler configuration.

    Flow matching is told by the scheduler's class (FlowMatch…) or by ``prediction_type: flow_prediction``.
    Raises UserError for a form or process that the adapters do not read.
    """
    name, prediction = settings.get("_class_name", ""), settings.get("prediction_type", "epsilon")
    if name.startswith("FlowMatch") or prediction == "flow_prediction":
        return RectifiedFlow(float(settings.get("flow_shift") or settings.get("shift") or 1.0)), "flow"
    if prediction not in FORMS:
        known = ", ".join([*FORMS, "flow_prediction"])
        raise UserError(f'prediction_type "{prediction}" of the scheduler {name or "configuration"} is none of {known}')
    return DiscreteVP.from_scheduler(settings), FORMS[prediction]


class NativeDenoiser(Denoiser):
    """D(x_t, sigma, condition) around a network that sees alpha * x0 + sigma * eps at its own timesteps.

    A subclass says in ``call`` how its network is called. At the schedule's own noise levels ``forward`` is what the
    stock scheduler calls ``pred_original_sample``; between them timesteps are fractional.

    Args:
        network: any dtype; its output is cast to float32 before it becomes x0.
        process: noise process. prediction: "eps", "v", "x0" or "flow".
        null: the empty (or negative) prompt's condition, a batch of one, for guidance.
        steps: timesteps of a flow's unit interval, as the scheduler counts them (num_train_timesteps).
    """

    def __init__(
        self,
        network,
        process: DiscreteVP | RectifiedFlow,
        prediction: str,
        null: Condition | None = None,
        steps: int = 1000,
    ):
        super().__init__()
        self.network, self.process, self.prediction = network, process, prediction
        self.sigma_min, self.sigma_max = process.sigma_min, process.sigma_max
        self.time_scale = float(steps) if isinstance(process, RectifiedFlow) else 1.0
        self.null_keys = tuple(null or ())
        for key, value in (null or {}).items():
            self.register_buffer(f"null_{key}", value, persistent=False)

    @property
    def dtype(self) -> torch.dtype:
        """Of the network's weights."""
        return next(self.network.parameters()).dtype

    def call(self, x: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        """The bare network: native ``x`` [B, C, h, w] in its dtype, ``timestep`` [B] as the scheduler counts."""
        raise NotImplementedError

    def predict(self, x: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        """Native prediction, float32, without learned-variance channels."""
        return self.call(x.to(self.dtype), timestep, condition)[:, : x.shape[1]].float()

    def forward(self, x_t: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        sigma = sigma.float()
        alpha, native_sigma = (value.view(-1, *[1] * (x_t.ndim - 1)) for value in self.process.scales(sigma))
        native = alpha * x_t.float()
        output = self.predict(native, self.process.timestep(sigma) * self.time_scale, condition)
        return convert(output, self.prediction, "x0", x_t=native, alpha=alpha, sigma=native_sigma)

    def encode(self, x_t: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """What leaves a U-Net's middle block (DMD2), or a transformer's block half-way, as a map; the rest is not run.

        Of FLUX, whose blocks are of two kinds, it is the first kind that is halved.
        """
        part = getattr(self.network, "mid_block", None)
        if part is None:
            blocks = self.network.transformer_blocks
            part = blocks[(len(blocks) - 1) // 2]
        found = output_of(part, lambda: self(x_t, sigma, condition))
        found = found[-1] if isinstance(found, tuple) else found  # of text and picture, the picture
        return (found if found.ndim == 4 else as_map(found, x_t)).float()

    def null_condition(self, like: Condition) -> Condition:
        if not self.null_keys:
            raise UserError("this teacher has no empty-prompt embedding: use guidance scale 1 or give one")
        found = {}
        for key in self.null_keys:
            value, wanted = getattr(self, f"null_{key}"), like[key]
            if key in ("text", "text_mask") and (padding := wanted.shape[1] - value.shape[1]) > 0:
                sides = (0, padding) if value.ndim == 2 else (0, 0, 0, padding)
                value = torch.nn.functional.pad(value, sides)
            found[key] = value.expand(len(wanted), *value.shape[1:]).to(wanted.dtype)
        return found
