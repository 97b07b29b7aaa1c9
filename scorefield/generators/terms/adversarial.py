"""A discriminator that lies in the online score's encoder, trained beside it on real and generated noised pictures.

Both are noised alike (same sigma, same noise); the discriminator learns softplus(-real) + softplus(generated), the
generator softplus(-generated) (SiDA, arXiv:2410.14919, section 3; DMD2, arXiv:2405.14867, section 4.3). At its optimum
a logit is log(p / q), the ratio of the two noised densities, which f-divergences read.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scorefield.denoiser import Condition, Denoiser
from scorefield.generators.base import Batch
from scorefield.generators.terms import divergence
from scorefield.generators.terms.real import Real
from scorefield.generators.terms.settings import DiscriminatorConfig, DivergenceConfig
from scorefield.generators.terms.wrapper import Term
from scorefield.noise import spread
from scorefield.random import Draws
from scorefield.training.parameters import frozen


class ConvHead(nn.Module):
    """Two convolutions over the encoder's output to a map of logits."""

    def __init__(self, channels: int):
        super().__init__()
        width = max(32, channels // 16 * 8)
        self.first, self.norm = nn.Conv2d(channels, width, 3, padding=1), nn.GroupNorm(8, width)
        self.last = nn.Conv2d(width, 1, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.silu(self.norm(self.first(x))))


class AdversarialTerm(Term):
    """The discriminator's and the generator's part, and the weights of an f-divergence.

    Args:
        online: the online score; a "conv" head becomes part of it, so that it is trained and saved with it.
        real: what it is held against, on the device of ``online``. noise_law: from uniforms [B] to sigma [B].
        precision: "bf16" for autocast in the encoder's passes, as in the trainer's own.

    Raises:
        UserError: a "conv" head for an online score that gives no features.
    """

    name = "adversarial"

    def __init__(
        self,
        settings: DiscriminatorConfig,
        ratio: DivergenceConfig,
        online: Denoiser,
        real: Real,
        noise_law: Callable[[Tensor], Tensor],
        precision: str = "fp32",
    ):
        self.settings, self.ratio, self.net, self.real, self.noise_law = settings, ratio, online, real, noise_law
        self.precision = precision
        self.head: nn.Module | None = None
        if settings.head == "conv":
            device = next(online.parameters()).device
            with torch.no_grad():
                x, told = real.take(Batch(real.draw(Draws(0, -1, torch.arange(1, device=device)))))
                channels = online.encode(x, torch.ones(1, device=device), told).shape[1]
            online.discriminator = self.head = ConvHead(channels).to(device)

    def draw(self, draws: Draws) -> dict[str, Tensor]:
        found = self.real.draw(draws)
        for who in ("online", "generator"):
            found[f"adversarial_u_{who}"] = draws.uniform(f"adversarial-u-{who}")
            found[f"adversarial_eps_{who}"] = draws.normal(f"adversarial-eps-{who}", *self.real.shape)
        return found

    def logits(self, x_t: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """[B]: the mean of the map of logits."""
        wanted = self.precision == "bf16"  # the cache is off for the reason that the trainer gives
        with torch.autocast(x_t.device.type, torch.bfloat16, enabled=wanted, cache_enabled=False):
            features = self.net.encode(x_t, sigma, condition)
        return (features if self.head is None else self.head(features)).flatten(1).mean(1)

    def online(self, x0: Tensor, batch: Batch) -> Tensor:
        real, told = self.real.take(batch)
        real_x, sigma = self._noised(real, batch, "online")
        fake_x, _ = self._noised(x0, batch, "online")
        real_logits = self.logits(real_x, sigma, told)
        fake_logits = self.logits(fake_x, sigma, batch.online_condition)
        loss = F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()
        return self.settings.online_weight * loss / 2

    def generator(self, x0: Tensor, batch: Batch, iteration: int) -> Tensor | None:
        """Times the number of elements, as the score losses are sums over them."""
        if not self.settings.weight or iteration < self.settings.start:
            return None
        x_t, sigma = self._noised(x0, batch, "generator")
        with frozen(self.net):
            logits = self.logits(x_t, sigma, batch.online_condition)
        return self.settings.weight * x0[0].numel() * F.softplus(-logits).mean()

    @torch.no_grad()
    def weigh(self, x_t: Tensor, sigma: Tensor, batch: Batch) -> Tensor | None:
        if self.ratio.name == "reverse_kl":
            return None
        return divergence.weights(self.ratio.name, self.logits(x_t, sigma, batch.online_condition), self.ratio.clip)

    def _noised(self, x0: Tensor, batch: Batch, who: str) -> tuple[Tensor, Tensor]:
        sigma = self.noise_law(batch.latents[f"adversarial_u_{who}"])
        return x0 + spread(sigma, x0) * batch.latents[f"adversarial_eps_{who}"], sigma
