"""StyleGAN2's mapping network, of generator and conditional discriminator (arXiv:1812.04948, arXiv:1912.04958)."""

import torch
from torch import Tensor, nn

from scorefield.errors import UserError
from scorefield.networks.style_layers import FullyConnectedLayer, unit_moment


class MappingNetwork(nn.Module):
    """z and label to intermediate latents w (section 3 of the StyleGAN papers).

    Args:
        z_dim: 0 for none (discriminator). c_dim: label entries, 0 for none. num_ws: copies of w, None for a flat one.
        w_avg_beta: momentum of the mean latent; None for no mean latent.
    """

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        num_ws: int | None,
        num_layers: int = 8,
        embed_features: int | None = None,
        layer_features: int | None = None,
        activation: str = "lrelu",
        lr_multiplier: float = 0.01,
        w_avg_beta: float | None = 0.995,
    ):
        super().__init__()
        self.z_dim, self.c_dim, self.w_dim, self.num_ws = z_dim, c_dim, w_dim, num_ws
        self.num_layers, self.w_avg_beta = num_layers, w_avg_beta
        embed_features = 0 if c_dim == 0 else (w_dim if embed_features is None else embed_features)
        widths = [z_dim + embed_features, *[layer_features or w_dim] * (num_layers - 1), w_dim]
        if c_dim > 0:
            self.embed = FullyConnectedLayer(c_dim, embed_features)
        for i in range(num_layers):
            layer = FullyConnectedLayer(widths[i], widths[i + 1], activation=activation, lr_multiplier=lr_multiplier)
            self.add_module(f"fc{i}", layer)
        if num_ws is not None and w_avg_beta is not None:
            self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(
        self,
        z: Tensor | None,
        c: Tensor | None = None,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        update_w_avg: bool = False,
    ) -> Tensor:
        """w [B, num_ws, w_dim] (or [B, w_dim]) of z [B, z_dim] and labels [B, c_dim].

        Truncation draws the first ``truncation_cutoff`` ws (all by default) towards w_avg: psi 1 is off.
        """
        dtype, parts = self.fc0.weight.dtype, []
        if self.z_dim > 0:
            self._check("z", z, self.z_dim)
            parts.append(unit_moment(z.to(dtype)))
        if self.c_dim > 0:
            self._check("labels", c, self.c_dim)
            parts.append(unit_moment(self.embed(c.to(dtype))))
        x = torch.cat(parts, 1)
        for i in range(self.num_layers):
            x = self.get_submodule(f"fc{i}")(x)
        if update_w_avg and self.w_avg_beta is not None:
            with torch.no_grad():
                self.w_avg.copy_(x.detach().mean(0).lerp(self.w_avg, self.w_avg_beta))
        if self.num_ws is not None:
            x = x[:, None].expand(-1, self.num_ws, -1)
        if truncation_psi == 1:
            return x
        if self.w_avg_beta is None:
            raise UserError("this mapping network keeps no w_avg, so it cannot truncate: use truncation_psi 1")
        if self.num_ws is None or truncation_cutoff is None:
            return self.w_avg.lerp(x, truncation_psi)
        near = self.w_avg.lerp(x[:, :truncation_cutoff], truncation_psi)
        return torch.cat([near, x[:, truncation_cutoff:]], 1)

    @staticmethod
    def _check(what: str, value: Tensor | None, width: int) -> None:
        if value is None or value.ndim != 2 or value.shape[1] != width:
            got = "none" if value is None else list(value.shape)
            raise UserError(f"the mapping network needs {what} of shape [batch, {width}], got {got}")
