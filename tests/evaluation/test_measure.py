"""The meter: figures that depend on seed and number of pictures alone, intervals, the figures of other packages."""

import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch

from scorefield.errors import UserError
from scorefield.evaluation import metrics
from scorefield.evaluation.judge import Judge
from scorefield.evaluation.measure import MeasureConfig, Meter, diversity_by_class, interval, nearest
from scorefield.processes import leave
from scorefield.random import Draws

torch.set_num_threads(1)


def settings(folder, **changes):
    if not (folder / "judge").exists():
        torch.manual_seed(0)
        Judge({"object": [str(k) for k in range(4)]}, (8, 8, 8, 16)).save(folder / "judge")
    usual = {"samples": 50, "real": 60, "judge": str(folder), "batch": 16}
    return MeasureConfig(**{"data": "toybox"} | usual | changes)


def make(places):
    """Pictures that depend on their places alone."""
    return Draws(5, -1, places).normal("picture", 3, 16, 16).clamp(-1, 1)


def test_the_batch_changes_no_figure(tmp_path):
    found = []
    for batch in (7, 16, 50):
        meter = Meter(settings(tmp_path, batch=batch), 16, "cpu", seed=1)
        found.append(meter.figures(meter.of_source(make, 50)))
    assert set(found[0]) >= {"frechet", "kid", "inception_score", "precision", "recall", "density", "coverage"}
    for other in found[1:]:
        assert other == pytest.approx(found[0], rel=1e-5)


def share(rank, folder):
    """One of two processes: it draws its share and both see all."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    meter, asked = Meter(settings(folder), 16, "cpu", seed=1), []
    seen = meter.of_source(lambda places: asked.extend(places.tolist()) or make(places), 50)
    torch.save([seen.features, seen.scores, asked], folder / f"{rank}.pt")
    leave()


def test_the_number_of_processes_changes_no_figure(tmp_path):
    meter = Meter(settings(tmp_path), 16, "cpu", seed=1)
    alone = meter.of_source(make, 50)
    context = multiprocessing.get_context("fork")  # no second import of torch
    started = [context.Process(target=share, args=(rank, tmp_path)) for rank in (0, 1)]
    for process in started:
        process.start()
    for process in started:
        process.join(60)
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    for features, scores, _ in found:
        torch.testing.assert_close(features, alone.features)
        torch.testing.assert_close(scores, alone.scores)
    assert sorted(found[0][2] + found[1][2]) == list(range(50))
    assert min(len(asked) for _, _, asked in found) >= 16


def test_statistics_in_and_out(tmp_path):
    path = tmp_path / "reference.npz"
    first = Meter(settings(tmp_path, save_reference=str(path)), 16, "cpu", seed=1)
    seen = first.of_source(make, 50)
    wanted = first.figures(seen)["frechet"]
    second = Meter(settings(tmp_path, reference=str(path), data="none"), 16, "cpu", seed=1)
    figures = second.figures(seen)
    assert figures["frechet"] == pytest.approx(wanted, rel=1e-9)
    assert "kid" not in figures  # there are no real pictures to take it from
    assert second.facts()["frechet_name"] == "FD-judge"
    with np.load(path) as file:
        assert file["mu"].shape == (16,)
        assert str(file["network"]).startswith("judge ")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": 1}, "at least 5"),
        ({"data": "none"}, "nothing to compare with"),
        ({"reference": "missing.npz"}, "does not exist"),
        ({"judge": "nobody"}, "no feature network"),
        ({"data": "none", "reference": "there.npz", "nearest": 3}, "nearest needs real"),
    ],
)
def test_what_cannot_be_measured(tmp_path, monkeypatch, changes, message):
    monkeypatch.chdir(tmp_path)
    Path("there.npz").touch()
    with pytest.raises(UserError, match=message):
        settings(tmp_path, **changes).check()


def test_figures_of_torch_fidelity():
    pytest.importorskip("torch_fidelity")
    from torch_fidelity.metric_fid import fid_statistics_to_metric
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    generator = torch.Generator().manual_seed(3)
    real, fake = torch.randn(80, 6, generator=generator), torch.randn(80, 6, generator=generator) * 1.2 + 0.3
    quiet = {"verbose": False}
    theirs = prc_features_to_metric(fake, real, prc_neighborhood=3, prc_batch_size=100, **quiet)
    ours = metrics.precision_recall(real, fake)
    assert ours["precision"] == pytest.approx(theirs["precision"])
    assert ours["recall"] == pytest.approx(theirs["recall"])
    theirs = kid_features_to_metric(fake, real, kid_subsets=1, kid_subset_size=80, kid_degree=3, kid_coef0=1, **quiet)
    assert metrics.kid(real, fake, subsets=1)[0] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-5)
    theirs = isc_features_to_metric(fake, splits=1)
    assert metrics.inception_score(fake, 1)[0] == pytest.approx(theirs["inception_score_mean"], rel=1e-6)
    sides = [
        {"mu": x.double().numpy().mean(0), "sigma": np.cov(x.double().numpy(), rowvar=False)} for x in (real, fake)
    ]
    theirs = fid_statistics_to_metric(*sides, False)
    assert metrics.frechet_distance(real, fake) == pytest.approx(theirs["frechet_inception_distance"], rel=1e-9)


def test_inception_score_of_known_predictions():
    sure = torch.eye(5).repeat(20, 1) * 100  # every class equally often and without doubt
    assert metrics.inception_score(sure, 1)[0] == pytest.approx(5.0)
    assert metrics.inception_score(torch.zeros(50, 5))[0] == pytest.approx(1.0)
    with pytest.raises(UserError, match="at least 10"):
        metrics.inception_score(torch.zeros(5, 5))


def test_the_interval_is_students():
    from scipy import stats

    values = [3.0, 3.5, 2.9, 3.3]
    wanted = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert interval(values) == pytest.approx(list(wanted), rel=1e-3)


def test_nearest_and_diversity_by_class():
    generator = torch.Generator().manual_seed(4)
    real, made = torch.randn(30, 3, generator=generator), torch.randn(7, 3, generator=generator)
    place, distance = nearest(made, real, chunk=8)
    table = (made[:, None].double() - real.double()).norm(dim=2)
    assert place.tolist() == table.argmin(1).tolist()
    torch.testing.assert_close(distance, table.min(1).values)
    labels = torch.tensor([0, 0, 1, 1, 1, 2, 0])
    varied = diversity_by_class(made, labels, ["a", "b", "c"])
    assert set(varied) == {"a", "b"}  # one picture has no pair
    assert varied["b"] == pytest.approx(float(torch.pdist(made[2:5].double()).mean()))
