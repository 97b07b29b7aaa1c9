"""Figures of merit on features: Fréchet distance, precision and recall, kernel distance, diversity.

Every function takes feature matrices [N, D] of any floating dtype on any device and computes in float64.
The figures depend on the network that made the features: name it beside every number.
"""

import math
from pathlib import Path

import torch
from torch import Tensor

from scorefield.errors import UserError


def _checked(features: Tensor, name: str, least: int) -> Tensor:
    """Features as float64 [N, D]; raises UserError for a wrong rank, too few rows or non-finite values."""
    if not isinstance(features, Tensor) or features.ndim != 2:
        got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise UserError(f"{name} must be a feature matrix [samples, dimensions], got {got}")
    if features.shape[0] < least or features.shape[1] < 1:
        raise UserError(
            f"{name} holds {features.shape[0]} samples of {features.shape[1]} dimensions; "
            f"at least {least} samples of 1 dimension are needed"
        )
    if features.device.type == "mps":
        features = features.cpu()  # Apple's GPUs have no float64
    features = features.detach().to(torch.float64)
    bad = int((~torch.isfinite(features)).any(1).sum())
    if bad:
        raise UserError(f"{name} holds NaN or infinite values in {bad} of {features.shape[0]} samples")
    return features


def _checked_pair(real: Tensor, fake: Tensor, least: int) -> tuple[Tensor, Tensor]:
    real, fake = _checked(real, "real features", least), _checked(fake, "fake features", least)
    if real.shape[1] != fake.shape[1]:
        raise UserError(f"real features have {real.shape[1]} dimensions, fake features {fake.shape[1]}")
    if real.device != fake.device:
        fake = fake.to(real.device)
    return real, fake


class FeatureStatistics:
    """Mean and covariance of features, gathered batch by batch in float64.

    Keeps the mean and the scatter about it and joins batches by the pairwise update of Chan, Golub and
    LeVeque (1979), which does not lose digits where the mean is large against the spread.

    Attributes:
        count: samples seen. mean: [D] float64, or None before the first batch. scatter: [D, D] float64.
        network: identity of the network that made the features, "" where it is not known.
    """

    def __init__(self, network: str = "") -> None:
        self.count, self.network = 0, network
        self.mean: Tensor | None = None
        self.scatter: Tensor | None = None

    def update(self, features: Tensor) -> "FeatureStatistics":
        """Take in features [N, D], N >= 1; returns itself. Raises UserError for bad or unlike features."""
        features = _checked(features, "features", 1)
        mean = features.mean(0)
        rest = features - mean
        self._join(len(features), mean, rest.T @ rest)
        return self

    def merge(self, other: "FeatureStatistics") -> "FeatureStatistics":
        """Take in what another object has seen (another rank, another file); returns itself."""
        if other.mean is not None and other.scatter is not None:
            self._join(other.count, other.mean, other.scatter)
        return self

    def _join(self, count: int, mean: Tensor, scatter: Tensor) -> None:
        if self.mean is None or self.scatter is None:
            self.count, self.mean, self.scatter = count, mean.clone(), scatter.clone()
            return
        if mean.shape != self.mean.shape:
            raise UserError(f"features have {mean.shape[0]} dimensions, those before had {self.mean.shape[0]}")
        total = self.count + count
        shift = mean.to(self.mean.device) - self.mean
        self.scatter = self.scatter + scatter.to(self.mean.device)
        self.scatter += torch.outer(shift, shift) * (self.count * count / total)
        self.mean = self.mean + shift * (count / total)
        self.count = total

    @property
    def covariance(self) -> Tensor:
        """[D, D] float64 with denominator N - 1; raises UserError with fewer than two samples."""
        if self.scatter is None or self.count < 2:
            raise UserError(f"a covariance needs at least 2 samples, got {self.count}")
        return self.scatter / (self.count - 1)

    def save(self, path: Path) -> None:
        """Write mu, sigma (the names of EDM's reference files, denominator N - 1), count and network as .npz."""
        import numpy as np

        from scorefield.files import write_atomically

        sigma = self.covariance.cpu().numpy()
        if self.mean is None:
            raise UserError("there are no statistics to save")
        mean = self.mean.cpu().numpy()

        def write(part: Path) -> None:
            with open(part, "wb") as file:
                np.savez(file, mu=mean, sigma=sigma, count=np.int64(self.count), network=np.str_(self.network))

        write_atomically(Path(path), write)

    @classmethod
    def load(cls, path: Path) -> "FeatureStatistics":
        """Read an .npz with mu [D] and sigma [D, D]; without a count it serves as a reference only.

        Files from elsewhere hold no count: it is then taken as 2**31, so ``merge`` would drown what follows.
        Raises UserError when the file is missing, broken, or not of this form.
        """
        import zipfile

        import numpy as np

        try:
            with np.load(path, allow_pickle=False) as file:
                mean, sigma = torch.from_numpy(file["mu"]).double(), torch.from_numpy(file["sigma"]).double()
                count = int(file["count"]) if "count" in file else 2**31
                network = str(file["network"]) if "network" in file else ""
        except (OSError, KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"cannot read feature statistics (mu, sigma) from {path}: {error}") from error
        if mean.ndim != 1 or sigma.shape != (len(mean), len(mean)):
            raise UserError(f"{path}: mu is {tuple(mean.shape)}, sigma {tuple(sigma.shape)}; not [D] and [D, D]")
        if not (torch.isfinite(mean).all() and torch.isfinite(sigma).all()) or count < 2:
            raise UserError(f"{path}: mu or sigma is not finite, or count is below 2 ({count})")
        statistics = cls(network)
        statistics.count, statistics.mean, statistics.scatter = count, mean, sigma * (count - 1)
        return statistics


def frechet_distance(real: Tensor | FeatureStatistics, fake: Tensor | FeatureStatistics) -> float:
    """Fréchet distance of the Gaussians fitted to two sets of features (Heusel et al. 2017, equation 6).

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), covariances with denominator N - 1. The trace of the root
    comes from the symmetric form tr((S1^(1/2) S2 S1^(1/2))^(1/2)), which stays real where a covariance
    is singular (fewer samples than dimensions).

    Args:
        real, fake: features [N, D], N >= 2, or gathered statistics.

    Returns:
        The squared distance, as "FID" is reported: 0 or more. It is biased upwards for small N.
    """
    first, second = (_statistics(real, "real features"), _statistics(fake, "fake features"))
    covariance1, covariance2 = first.covariance, second.covariance
    if first.mean is None or second.mean is None or first.mean.shape != second.mean.shape:
        raise UserError(f"real features have {len(covariance1)} dimensions, fake features {len(covariance2)}")
    covariance2 = covariance2.to(covariance1.device)
    difference = first.mean - second.mean.to(first.mean.device)
    values, vectors = torch.linalg.eigh(covariance1)
    half = vectors * values.clamp_min(0).sqrt() @ vectors.T
    product = half @ covariance2 @ half
    cross = torch.linalg.eigvalsh((product + product.T) / 2).clamp_min(0).sqrt().sum()
    squared = difference.square().sum() + covariance1.trace() + covariance2.trace() - 2 * cross
    return max(float(squared), 0.0)  # rounding can leave -1e-12 for equal sets


def _statistics(features: Tensor | FeatureStatistics, name: str) -> FeatureStatistics:
    if isinstance(features, FeatureStatistics):
        return features
    return FeatureStatistics().update(_checked(features, name, 2))


def _radii(features: Tensor, k: int, chunk: int) -> Tensor:
    """[N]: distance of every row to its k-th nearest other row."""
    # Row i itself is among the k + 1 nearest (at distance 0), hence k + 1.
    parts = [_distances(rows, features).kthvalue(k + 1, dim=1).values for rows in features.split(chunk)]
    return torch.cat(parts)


def _distances(a: Tensor, b: Tensor) -> Tensor:
    # The matrix-multiplication form gives a point a distance to itself of up to 1e-7; this one gives 0.
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def precision_recall(real: Tensor, fake: Tensor, k: int = 3, chunk: int = 1024) -> dict[str, float]:
    """Improved precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020).

    Precision: share of fake samples inside the k-nearest-neighbour ball of some real sample; recall: the
    same with the roles exchanged. Density: mean number of real balls around a fake sample, over k (may
    exceed 1). Coverage: share of real balls that hold a fake sample.

    Args:
        real, fake: features [N, D] and [M, D], more than k samples each.
        k: which neighbour sets the ball's radius (the sample itself does not count).
        chunk: rows of a distance matrix computed at a time; memory is about 8 * chunk * max(N, M) bytes.

    Returns:
        "precision", "recall", "density", "coverage".
    """
    if k < 1 or chunk < 1:
        raise UserError(f"k and chunk must be at least 1, got k = {k}, chunk = {chunk}")
    real, fake = _checked_pair(real, fake, k + 1)
    real_radii, fake_radii = _radii(real, k, chunk), _radii(fake, k, chunk)
    balls = torch.zeros(len(fake), dtype=torch.float64, device=real.device)
    recalled, covered = [], []
    start = 0
    for rows in real.split(chunk):
        distances = _distances(rows, fake)
        inside = distances <= real_radii[start : start + len(rows), None]
        balls += inside.sum(0)
        covered.append(inside.any(1))
        recalled.append((distances <= fake_radii).any(1))
        start += len(rows)
    return {
        "precision": float((balls > 0).double().mean()),
        "recall": float(torch.cat(recalled).double().mean()),
        "density": float(balls.mean() / k),
        "coverage": float(torch.cat(covered).double().mean()),
    }


def kid(real: Tensor, fake: Tensor, subsets: int = 100, seed: int = 0, size: int = 1000) -> tuple[float, float]:
    """Kernel distance (Bińkowski et al. 2018): unbiased squared MMD with kernel (x·y / D + 1)^3.

    Args:
        real, fake: features [N, D] and [M, D], two samples each at least.
        subsets: how many random subsets are averaged. seed: of their draw, the same on every device.
        size: samples per subset, drawn without replacement; lowered to the smaller set.

    Returns:
        Mean and standard deviation over the subsets. Unbiased, so equal distributions may give below 0.
    """
    if subsets < 1 or size < 2:
        raise UserError(f"subsets must be at least 1 and size at least 2, got {subsets} and {size}")
    real, fake = _checked_pair(real, fake, 2)
    size = min(size, len(real), len(fake))
    draw = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(subsets):
        x = real[torch.randperm(len(real), generator=draw)[:size].to(real.device)]
        y = fake[torch.randperm(len(fake), generator=draw)[:size].to(fake.device)]
        values.append(_squared_mmd(x, y))
    found = torch.stack(values)
    return float(found.mean()), float(found.std(correction=0))


def _squared_mmd(x: Tensor, y: Tensor) -> Tensor:
    """Unbiased squared MMD of two equally large sets (Gretton et al. 2012, equation 3)."""
    n, dimensions = x.shape
    xx, yy, xy = ((a @ b.T / dimensions + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    within = (xx.sum() - xx.trace() + yy.sum() - yy.trace()) / (n * (n - 1))
    return within - 2 * xy.mean()


def inception_score(scores: Tensor, splits: int = 10, seed: int = 0) -> tuple[float, float]:
    """Inception score (Salimans et al. 2016): exp of the mean KL divergence of p(class | picture) from p(class).

    Args:
        scores: class scores before the softmax [N, K], N >= splits (FID's network: without the output bias).
        splits: parts of the shuffled pictures that are scored on their own. seed: of the shuffle.

    Returns:
        Mean and standard deviation over the parts: 1 is worst, K is best.
    """
    scores = _checked(scores, "class scores", max(splits, 2))
    if splits < 1:
        raise UserError(f"splits must be at least 1, not {splits}")
    order = torch.randperm(len(scores), generator=torch.Generator().manual_seed(seed)).to(scores.device)
    values = []
    for part in scores[order].tensor_split(splits):
        log_p = part.log_softmax(1)
        log_mean = log_p.logsumexp(0) - math.log(len(part))
        values.append((log_p.exp() * (log_p - log_mean)).sum(1).mean().exp())
    found = torch.stack(values)
    return float(found.mean()), float(found.std(correction=0))


def pairwise_diversity(features: Tensor) -> float:
    """Mean Euclidean distance over all pairs of different rows of features [N, D], N >= 2."""
    features = _checked(features, "features", 2)
    total = sum(
        float(_distances(features[i : i + 1024], features[i:]).triu(1).sum()) for i in range(0, len(features), 1024)
    )
    return total / (len(features) * (len(features) - 1) / 2)


def diversity(features: Tensor, groups: list[str] | list[int] | Tensor) -> float:
    """Mean over groups (prompts) of the mean pairwise distance within the group.

    Args:
        features: [N, D]. groups: N group names or numbers; groups of one have no pair and are left out.

    Raises:
        UserError: lengths differ, or no group has two samples.
    """
    features = _checked(features, "features", 2)
    names = groups.tolist() if isinstance(groups, Tensor) else list(groups)
    if len(names) != len(features):
        raise UserError(f"{len(features)} samples need as many group names, got {len(names)}")
    members: dict[object, list[int]] = {}
    for index, name in enumerate(names):
        members.setdefault(name, []).append(index)
    values = [pairwise_diversity(features[rows]) for rows in members.values() if len(rows) > 1]
    if not values:
        raise UserError(f"diversity needs a group of at least 2 samples; all {len(members)} groups hold one")
    return sum(values) / len(values)
