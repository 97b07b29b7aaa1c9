"""checkpoints/best.txt: the saved iteration with the smallest gap between the scores, kept whatever else is dropped."""

from scorefield.training import checkpoint

from .test_session import make


def scripted(path, gaps: dict[int, float], **settings):
    """A session whose figures say these gaps at these iterations, which are all that it logs and saves."""
    session = make(path, **settings)
    session.config.checkpoints.keep = 1
    real = session.trainer.figures
    session.trainer.figures = lambda iterations: real(iterations) | {"x0_gap/rms": gaps[session.iteration]}
    return session


def best(session) -> str:
    return (session.folder.checkpoints / "best.txt").read_text().strip()


def names(session) -> list[str]:
    return [path.name for path in checkpoint.listed(session.folder.checkpoints)]


GAPS = {2: 0.9, 4: 0.8, 6: 0.3, 8: 0.5, 10: 0.4}
EVERY = {"iterations": 10, "every": 2, "log_every": 2}


def test_the_smallest_gap_is_best_and_outlives_the_older_ones(tmp_path):
    session = scripted(tmp_path, GAPS, **EVERY)
    seen = []
    session.generator.after_step = lambda k: seen.append(best(session)) if k in (6, 8) else None
    session.run()
    assert seen == ["iteration-000006"] * 2
    assert best(session) == "iteration-000006"
    assert names(session) == ["iteration-000010", "iteration-000006"]  # the newest one, and the best one beside it
    assert checkpoint.damage(session.folder.checkpoints / best(session)) == ""
    assert (session.folder.checkpoints / "latest.txt").read_text() == "iteration-000010\n"


def test_the_first_fifth_of_a_run_has_no_best(tmp_path):
    """The scores start alike: their gap is smallest where nothing was learnt."""
    session = scripted(tmp_path, GAPS | {2: 0.001, 12: 0.5}, **(EVERY | {"iterations": 12}))
    session.run()
    assert best(session) == "iteration-000006"


def test_a_resumed_run_remembers_the_best_of_before(tmp_path):
    scripted(tmp_path, GAPS, **EVERY).run()
    later = {12: 0.35, 14: 0.8}
    again = scripted(tmp_path, later, **(EVERY | {"iterations": 14}))
    assert again.resume()
    again.run()
    assert best(again) == "iteration-000006"
    assert names(again) == ["iteration-000014", "iteration-000006"]
    better = scripted(tmp_path, {16: 0.2, 18: 0.6}, **(EVERY | {"iterations": 18}))
    assert better.resume()
    better.run()
    assert best(better) == "iteration-000016"
    assert names(better) == ["iteration-000018", "iteration-000016"]


def test_a_gap_that_was_logged_before_a_checkpoint_counts_for_it(tmp_path):
    session = scripted(tmp_path, {3: 0.1, 6: 0.4, 9: 0.2, 10: 0.6}, iterations=10, every=5, log_every=3)
    session.run()
    assert best(session) == "iteration-000005"
