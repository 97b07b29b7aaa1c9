"""Figures of merit against independent computations: scipy, numpy, closed forms and loops."""

import math

import numpy as np
import pytest
import torch

from scorefield.errors import UserError
from scorefield.evaluation.metrics import (
    FeatureStatistics,
    diversity,
    frechet_distance,
    kid,
    pairwise_diversity,
    precision_recall,
)

torch.set_num_threads(1)


def draw(n: int, d: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=generator, dtype=torch.float64)
    return torch.randn(n, d, generator=generator, dtype=torch.float64) @ mix + shift


def with_moments(mean: list[float], covariance: np.ndarray, n: int, seed: int) -> torch.Tensor:
    """Samples whose empirical mean and covariance (N - 1) are exactly the given ones."""
    x = np.random.default_rng(seed).standard_normal((n, len(mean)))
    x -= x.mean(0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T
    return torch.from_numpy(x @ np.linalg.cholesky(covariance).T + np.array(mean))


def test_frechet_agrees_with_scipy_sqrtm():
    from scipy.linalg import sqrtm

    a, b = draw(200, 12, 1), draw(150, 12, 2, 0.7)
    s1, s2 = np.cov(a.numpy(), rowvar=False), np.cov(b.numpy(), rowvar=False)
    mean = ((a.mean(0) - b.mean(0)) ** 2).sum().item()
    expected = mean + np.trace(s1 + s2 - 2 * np.real(sqrtm(s1 @ s2)))
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-10)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-10)


def test_frechet_of_commuting_gaussians_has_the_closed_form():
    m1, m2, v1, v2 = [1.0, -2.0, 0.5], [0.0, 1.0, 0.5], [4.0, 0.25, 1.0], [1.0, 9.0, 2.0]
    expected = sum((a - b) ** 2 + (math.sqrt(v) - math.sqrt(w)) ** 2 for a, b, v, w in zip(m1, m2, v1, v2, strict=True))
    a, b = with_moments(m1, np.diag(v1), 50, 0), with_moments(m2, np.diag(v2), 70, 1)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-10)


def test_frechet_agrees_with_torchmetrics():
    fid = pytest.importorskip("torchmetrics.image.fid")
    a, b = draw(90, 7, 3), draw(80, 7, 4, 0.3)
    cov = [torch.cov(x.T) for x in (a, b)]
    expected = float(fid._compute_fid(a.mean(0), cov[0], b.mean(0), cov[1]))
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


def test_frechet_of_equal_and_of_singular_sets():
    a = draw(10, 30, 5)  # fewer samples than dimensions: singular covariance
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=1e-5 * float(a.var()))
    assert frechet_distance(a, a + 2.0) == pytest.approx(30 * 4.0, rel=1e-6)


def test_frechet_takes_single_precision_with_a_large_mean():
    a = (draw(400, 5, 6) + 1000).float()
    b = (draw(400, 5, 7) + 1000).float()
    shifted = frechet_distance(a.double() - 1000, b.double() - 1000)
    assert frechet_distance(a, b) == pytest.approx(shifted, rel=1e-9)


@pytest.mark.parametrize("split", [1, 7, 50, 101])
def test_statistics_do_not_depend_on_batches_or_merging(split):
    x = draw(101, 6, 8, 3.0)
    first, second = FeatureStatistics(), FeatureStatistics()
    for number, part in enumerate(x.split(split)):
        (first if number % 2 else second).update(part)
    whole = FeatureStatistics().merge(first).merge(second)
    assert whole.count == 101
    torch.testing.assert_close(whole.mean, x.mean(0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(whole.covariance, torch.from_numpy(np.cov(x.numpy(), rowvar=False)))


def test_statistics_survive_a_file(tmp_path):
    x, y = draw(60, 4, 9), draw(60, 4, 10)
    path = tmp_path / "reference.npz"
    FeatureStatistics().update(x).save(path)
    with np.load(path) as file:
        np.testing.assert_allclose(file["sigma"], np.cov(x.numpy(), rowvar=False))
    again = FeatureStatistics.load(path)
    assert again.count == 60
    assert frechet_distance(again, y) == pytest.approx(frechet_distance(x, y), rel=1e-12)
    np.savez(tmp_path / "edm.npz", mu=x.numpy().mean(0), sigma=np.cov(x.numpy(), rowvar=False))
    edm = FeatureStatistics.load(tmp_path / "edm.npz")
    assert frechet_distance(edm, y) == pytest.approx(frechet_distance(x, y), rel=1e-9)


def test_bad_statistics_files_are_refused(tmp_path):
    (tmp_path / "noise.npz").write_bytes(b"nothing of the kind")
    np.savez(tmp_path / "names.npz", mean=np.zeros(3))
    np.savez(tmp_path / "shape.npz", mu=np.zeros(3), sigma=np.zeros((2, 2)))
    for name in ("missing", "noise", "names", "shape"):
        with pytest.raises(UserError, match=name):
            FeatureStatistics.load(tmp_path / f"{name}.npz")
    with pytest.raises(UserError, match="at least 2"):
        FeatureStatistics().update(torch.zeros(1, 3)).save(tmp_path / "one.npz")
    assert not (tmp_path / "one.npz").exists()


def loop_precision_recall(real: np.ndarray, fake: np.ndarray, k: int) -> dict[str, float]:
    def radius(points: np.ndarray, i: int) -> float:
        others = [np.linalg.norm(points[i] - p) for j, p in enumerate(points) if j != i]
        return sorted(others)[k - 1]

    r = [radius(real, i) for i in range(len(real))]
    f = [radius(fake, i) for i in range(len(fake))]
    inside = [[np.linalg.norm(x - y) <= r[i] for i, x in enumerate(real)] for y in fake]
    found = [any(np.linalg.norm(x - y) <= f[j] for j, y in enumerate(fake)) for x in real]
    return {
        "precision": float(np.mean([any(row) for row in inside])),
        "recall": float(np.mean(found)),
        "density": float(np.sum(inside) / (k * len(fake))),
        "coverage": float(np.mean([any(row[i] for row in inside) for i in range(len(real))])),
    }


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("chunk", [4, 1000])
def test_precision_recall_agrees_with_loops(k, chunk):
    real, fake = draw(37, 3, 11), draw(29, 3, 12, 0.5)
    expected = loop_precision_recall(real.numpy(), fake.numpy(), k)
    assert precision_recall(real, fake, k, chunk) == pytest.approx(expected)
    assert 0 < expected["precision"] < 1


def test_precision_recall_of_dropped_and_of_alien_modes():
    near, far = draw(60, 4, 13) * 0.1, draw(60, 4, 14) * 0.1 + 100
    dropped = precision_recall(torch.cat([near, far]), near)
    assert (dropped["precision"], dropped["recall"]) == (1.0, 0.5)
    alien = precision_recall(near, torch.cat([near, far]))
    assert (alien["precision"], alien["recall"]) == (0.5, 1.0)
    same = precision_recall(near, near)
    assert same["precision"] == same["recall"] == same["coverage"] == 1.0


def test_kid_of_full_subsets_agrees_with_loops():
    x, y = draw(9, 3, 15), draw(9, 3, 16, 0.4)
    kernel = lambda a, b: (float(a @ b) / 3 + 1) ** 3  # noqa: E731
    n = 9
    within = sum(kernel(s[i], s[j]) for s in (x, y) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    across = sum(kernel(a, b) for a in x for b in y) / (n * n)
    mean, spread = kid(x, y, subsets=3)
    assert mean == pytest.approx(within - 2 * across, rel=1e-10)
    assert spread == pytest.approx(0.0, abs=1e-12)  # every subset is the whole set


def test_kid_is_unbiased_for_equal_distributions_and_sees_a_shift():
    generator = torch.Generator().manual_seed(17)
    pairs = torch.randn(400, 2, 20, 4, generator=generator, dtype=torch.float64)
    values = torch.tensor([kid(a, b, subsets=1)[0] for a, b in pairs])
    error = float(values.std() / len(values) ** 0.5)
    assert abs(float(values.mean())) < 4 * error
    assert kid(pairs[0, 0], pairs[0, 1] + 2, subsets=1)[0] > 10 * float(values.std())


def test_kid_repeats_by_seed():
    x, y = draw(80, 5, 18), draw(70, 5, 19)
    assert kid(x, y, 10, seed=1, size=20) == kid(x, y, 10, seed=1, size=20)
    assert kid(x, y, 10, seed=1, size=20) != kid(x, y, 10, seed=2, size=20)


def test_diversity_agrees_with_loops_and_ignores_single_samples():
    x = draw(11, 3, 20)
    names = ["a", "b", "a", "c", "b", "a", "b", "d", "a", "c", "b"]

    def mean_distance(rows: list[int]) -> float:
        pairs = [(i, j) for i in rows for j in rows if i < j]
        return sum(float((x[i] - x[j]).norm()) for i, j in pairs) / len(pairs)

    groups = [[i for i, name in enumerate(names) if name == g] for g in "abc"]
    assert diversity(x, names) == pytest.approx(sum(map(mean_distance, groups)) / 3, rel=1e-12)
    assert pairwise_diversity(x) == pytest.approx(mean_distance(list(range(11))), rel=1e-12)
    assert diversity(x, torch.zeros(11)) == pytest.approx(pairwise_diversity(x), rel=1e-12)


def test_pairwise_diversity_crosses_its_chunks():
    x = draw(1100, 2, 21)
    assert pairwise_diversity(x) == pytest.approx(float(torch.pdist(x).mean()), rel=1e-10)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: frechet_distance(x[0], x), "samples, dimensions"),
        (lambda x: frechet_distance(x, x.numpy()), "ndarray"),
        (lambda x: frechet_distance(x[:1], x), "at least 2"),
        (lambda x: frechet_distance(x, x[:, :2]), "dimensions"),
        (lambda x: frechet_distance(x, x / 0), "NaN or infinite"),
        (lambda x: FeatureStatistics().update(x).update(x[:, :1]), "dimensions"),
        (lambda x: FeatureStatistics().covariance, "at least 2"),
        (lambda x: precision_recall(x[:3], x), "at least 4"),
        (lambda x: precision_recall(x, x, k=0), "at least 1"),
        (lambda x: precision_recall(x, x[:, :2]), "dimensions"),
        (lambda x: kid(x, x[:1]), "at least 2"),
        (lambda x: kid(x, x, subsets=0), "at least 1"),
        (lambda x: diversity(x, ["a"]), "group names"),
        (lambda x: diversity(x, list(range(len(x)))), "hold one"),
    ],
)
def test_bad_features_are_refused_in_one_clear_line(call, message):
    with pytest.raises(UserError, match=message) as caught:
        call(draw(12, 3, 22))
    assert "\n" not in str(caught.value)
