"""The mapping network fitted so that each class shows its variants as often as the teacher's pictures do.

No score of a picture that is right in itself says that there are too many of its kind. How often there are does: the
features of the teacher's own encoder fall into clusters, and the ratio of the frequencies of both sets in a cluster is
the weight of the latents that land there. Latents drawn by these weights are what the mapping network is fitted to,
against a small discriminator on w; the synthesis network is left alone.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scorefield.networks.stylegan2_mapping import MappingNetwork
from scorefield.pretrain.gan import discriminator_loss, generator_loss, r1_penalty
from scorefield.teachers.edm import EDMDenoiser

from .settings import BalanceConfig

POOLED, ROUNDS, TRIES = 4, 30, 5
LARGEST = 6.0  # weight of one clustering, and the inverse of its smallest
PRIOR = 2.0  # pictures that each cluster is given beforehand, shared as the generator's are
HIDDEN, RATE, PENALTY, PENALTY_EVERY, KEPT = 256, 2e-3, 0.4, 4, 0.99


@torch.no_grad()
def colours(pictures: Tensor) -> Tensor:
    """[N, 19 for colour pictures]: 1, the channels' means, deviations and covariances, and the squares of these."""
    flat = pictures.flatten(2)
    centred = flat - flat.mean(2, keepdim=True)
    rows, columns = torch.triu_indices(flat.shape[1], flat.shape[1], 1, device=flat.device)
    shared = (centred @ centred.transpose(1, 2) / flat.shape[2])[:, rows, columns]
    found = torch.cat([flat.mean(2), flat.std(2), shared], 1)
    return torch.cat([torch.ones_like(found[:, :1]), found, found.square()], 1)


def unexplained(values: Tensor, by: Tensor) -> Tensor:
    """``values`` [N, F] less their least-squares fit by ``by`` [N, K] of any rank, which CUDA's solver minds."""
    fit = torch.linalg.lstsq(by.cpu(), values.cpu(), driver="gelsd").solution
    return values - by @ fit.to(values.device)


@torch.no_grad()
def features(teacher: EDMDenoiser, pictures: Tensor, labels: Tensor, sigma: float, batch: int) -> Tensor:
    """[N, channels * 16]: the end of the teacher's encoder at ``sigma``, averaged down to 4 x 4.

    Args:
        pictures: [N, C, R, R] in [-1, 1]. labels: [N, classes], one-hot, or of no entries.
    """
    found = []
    draw = torch.Generator(pictures.device).manual_seed(0)
    for some, told in zip(pictures.split(batch), labels.split(batch), strict=True):
        noise = torch.randn(some.shape, generator=draw, device=some.device)
        level = torch.full((len(some),), sigma, device=some.device)
        condition = {"label": told} if teacher.label_dim else {}
        found.append(F.adaptive_avg_pool2d(teacher.encode(some + sigma * noise, level, condition), POOLED).flatten(1))
    return torch.cat(found)


def clusters(points: Tensor, count: int, draw: torch.Generator) -> Tensor:
    """[N]: the cluster of each of ``points`` [N, F] by Lloyd's k-means, the best of several starts."""
    best, least = None, math.inf
    for _ in range(TRIES):
        centres = points[torch.randperm(len(points), generator=draw)[:count].to(points.device)]
        for _ in range(ROUNDS):
            nearest = torch.cdist(points, centres).argmin(1)
            sums = torch.zeros_like(centres).index_add_(0, nearest, points)
            sizes = torch.bincount(nearest, minlength=len(centres))[:, None]
            centres = torch.where(sizes > 0, sums / sizes.clamp_min(1), centres)
        gaps, nearest = torch.cdist(points, centres).min(1)
        if (spread := float(gaps.square().mean())) < least:
            best, least = nearest, spread
    assert best is not None
    return best


def log_ratios(taught: Tensor, shown: Tensor, settings: BalanceConfig, seed: int) -> Tensor:
    """[M]: log of how much more frequent the kind of each of ``shown`` [M, F] is among ``taught`` [N, F].

    The mean over ``settings.clusters`` of the clusters' smoothed ratios. Fewer pictures of either than clusters: zeros.
    """
    if min(len(taught), len(shown)) < max(settings.clusters):
        return shown.new_zeros(len(shown))
    both = torch.cat([taught, shown])
    both = both - both.mean(0)
    torch.manual_seed(seed)  # pca_lowrank draws from it
    _, _, directions = torch.pca_lowrank(both, min(settings.components, *both.shape), center=False)
    points, draw, total = both @ directions, torch.Generator().manual_seed(seed), shown.new_zeros(len(shown))
    for count in settings.clusters:
        found = clusters(points, count, draw)
        ours, theirs = found[len(taught) :], found[: len(taught)]
        share = (torch.bincount(ours, minlength=count) + 0.5) / len(ours)
        wanted = (torch.bincount(theirs, minlength=count) + PRIOR * count * share) / (len(theirs) + PRIOR * count)
        total += (wanted / share).clamp(1 / LARGEST, LARGEST).log()[ours]
    return total / len(settings.clusters)


@dataclass
class Looked:
    """What is known of a set of pictures: features [N, F], colours [N, K], classes int64 [N]."""

    features: Tensor
    colours: Tensor
    classes: Tensor

    def of(self, number: int) -> "Looked":
        rows = self.classes == number
        return Looked(self.features[rows], self.colours[rows], self.classes[rows])


def weights(taught: Looked, shown: Looked, settings: BalanceConfig) -> Tensor:
    """[M]: how often each of the generator's pictures ``shown`` should be drawn, class by class; mean 1 in each class.

    What colours explain of the features is taken out first: objects of one colour would be nearer to each other than
    those of one shape.
    """
    found = torch.ones(len(shown.classes), device=shown.features.device)
    for number in shown.classes.unique().tolist():
        theirs, ours = taught.of(number), shown.of(number)
        both = unexplained(torch.cat([theirs.features, ours.features]), torch.cat([theirs.colours, ours.colours]))
        cut = len(theirs.classes)
        power = (settings.power * log_ratios(both[:cut], both[cut:], settings, number)).exp()
        found[shown.classes == number] = power / power.mean()
    return found


class Critic(nn.Module):
    """Scores [B] of standardized w [B, w_dim], an answer for each class."""

    def __init__(self, w_dim: int, classes: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(w_dim + classes, HIDDEN),
            nn.LeakyReLU(0.2),
            nn.Linear(HIDDEN, HIDDEN),
            nn.LeakyReLU(0.2),
            nn.Linear(HIDDEN, max(classes, 1)),
        )

    def forward(self, w: Tensor, c: Tensor) -> Tensor:
        answers = self.layers(torch.cat([w, c], 1))
        return (answers * c).sum(1) if c.shape[1] else answers[:, 0]


def fit(
    mapping: MappingNetwork,
    ws: Tensor,
    c: Tensor,
    weighted: Tensor,
    settings: BalanceConfig,
    seed: int,
    say: Callable[[str], None] = print,
) -> MappingNetwork:
    """A copy of ``mapping`` whose w are distributed as ``ws`` [M, w_dim] drawn by ``weighted`` [M].

    Args:
        c: labels [M, c_dim] of ``ws``. Its mean latent follows.
    """
    device = ws.device
    fitted, critic = copy.deepcopy(mapping).train().requires_grad_(True), Critic(ws.shape[1], c.shape[1]).to(device)
    average = copy.deepcopy(mapping).requires_grad_(False)
    moves = torch.optim.Adam(fitted.parameters(), settings.learning_rate, betas=(0.0, 0.99))
    tells = torch.optim.Adam(critic.parameters(), RATE, betas=(0.0, 0.99))
    middle, scale = ws.mean(0), ws.std(0).clamp_min(1e-6)
    draw = torch.Generator(device).manual_seed(seed)

    def made(labels: Tensor) -> Tensor:
        z = torch.randn((len(labels), mapping.z_dim), generator=draw, device=device)
        return (fitted(z, labels)[:, 0] - middle) / scale

    every = max(1, settings.steps // 4)
    for step in range(settings.steps):
        falling = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / settings.steps))
        moves.param_groups[0]["lr"] = settings.learning_rate * falling
        rows = torch.multinomial(weighted, settings.batch, replacement=True, generator=draw)
        real, labels = (ws[rows] - middle) / scale, c[rows]
        with torch.no_grad():
            fake = made(labels)
        penalized = step % PENALTY_EVERY == 0
        answers = critic(real.requires_grad_(penalized), labels)
        loss = discriminator_loss(answers, critic(fake, labels))
        if penalized:
            loss = loss + PENALTY_EVERY * PENALTY / 2 * r1_penalty(answers, real)
        tells.zero_grad()
        loss.backward()
        tells.step()
        adverse = generator_loss(critic(made(labels), labels))
        moves.zero_grad()
        adverse.backward()
        moves.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(fitted.parameters()), 1 - KEPT)
        if (step + 1) % every == 0:
            say(f"balance: step {step + 1} of {settings.steps}, discriminator {loss:.3f}, mapping {adverse:.3f}")
    if mapping.w_avg_beta is not None:
        with torch.no_grad():
            z = torch.randn((len(c), mapping.z_dim), generator=draw, device=device)
            average.w_avg.copy_(average(z, c)[:, 0].mean(0))  # type: ignore[operator]
    return average
