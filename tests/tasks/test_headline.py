"""The headline table: what was measured, what was not, and one command that measures the rest."""

import csv
import json

import pytest
import yaml

from scorefield import resources
from scorefield.cli import main
from scorefield.commands.headline import read_peers
from scorefield.files import write_json
from tests.teachers import families


def table(run) -> list[list[str]]:
    return list(csv.reader((run / "headline.csv").read_text().splitlines()))


def test_one_command_measures_the_peers_and_writes_the_table(run, tmp_path, capsys):
    folder = families.write("sd_eps", tmp_path / "turbo")
    entries = [
        {"name": "one", "pipeline": str(folder), "steps": 1, "guidance": 0.0, "call": {"height": 16, "width": 16}},
        {"name": "two steps", "pipeline": str(folder), "steps": 2, "scheduler": "LCMScheduler"},
    ]
    (tmp_path / "peers.yaml").write_text(yaml.safe_dump(entries))
    words = ["headline", str(run), "--peers", str(tmp_path / "peers.yaml"), "--device", "cpu"]
    assert main(words) == 0
    found = table(run)
    assert [row[0] for row in found] == ["", "teacher", "student", "one", "two steps"]
    assert [row[1] for row in found[1:]] == ["2", "1", "1", "2"]
    assert all(float(row[-1]) > 0 for row in found[1:])
    assert all(row[2:5] == ["", "", ""] for row in found[1:])
    text = (run / "headline.md").read_text()
    assert "| teacher | 2 | not measured | not measured | not measured | not measured |" in text
    assert "4 held-out prompts of prompts.txt" in text
    peers = json.loads((run / "summary.json").read_text())["peers"]
    capsys.readouterr()
    assert main(words) == 0  # what is there is not measured again
    assert "scorefield evaluate" not in capsys.readouterr().out
    assert json.loads((run / "summary.json").read_text())["peers"] == peers
    assert main(["evaluate", str(run), "--device", "cpu"]) == 0  # measuring the run anew keeps its peers
    entries[0]["steps"] = 3
    (tmp_path / "peers.yaml").write_text(yaml.safe_dump(entries))
    assert main(words) == 0
    assert capsys.readouterr().out.count("scorefield evaluate") == 1
    assert [row[1] for row in table(run)[1:]] == ["2", "1", "3", "2"]


def test_scores_and_votes_stand_with_their_intervals(run):
    summary = json.loads((run / "summary.json").read_text())
    for who, shift in (("teacher", 0.0), ("student", 0.5)):
        summary[who] |= {"aesthetic_score": 5.25 + shift, "aesthetic_score_interval": [5.15 + shift, 5.35 + shift]}
        summary[who] |= {"clip_score": 0.25 + shift}
    told = {"title": "aesthetic score", "model": "a linear head", "definition": "1 to 10", "better": "higher"}
    summary["scores"] = {"aesthetic_score": told, "clip_score": told | {"title": "CLIP score", "model": "ViT-B"}}
    vote = {"rate": 0.6, "interval": [0.55, 0.65], "wins": 60, "losses": 40, "ties": 3, "raters": 2, "pairs": 51}
    summary["preference"] = {"teacher": vote | {"method": "Wilson"}}
    how = {"prompts": 3, "pipeline": "some/model", "class": "A", "scheduler": "B", "dtype": "C"}
    summary["peers"] = {"slow": {"steps": 9, "told": how}}
    write_json(run / "summary.json", summary)
    assert main(["headline", str(run)]) == 0
    text = (run / "headline.md").read_text()
    assert "| teacher | 2 | 5.25 ± 0.1 | not measured | not measured | 0.25 | 60.0 % (55.0 to 65.0) |" in text
    assert "| student | 1 | 5.75 ± 0.1 | not measured | not measured | 0.75 | – |" in text
    assert "aesthetic score: a linear head (1 to 10), ± half the 95 % interval of the mean." in text
    assert "60 wins, 40 losses and 3 ties by 2 people on 51 pairs" in text
    assert "slow was measured on 3 prompts, the run on 4: they do not compare." in text
    assert table(run)[1][2:7] == ["5.25", "", "", "0.25", "0.6"]


def test_the_peers_that_come_along_are_whole_and_wrong_ones_are_named(run, tmp_path, capsys):
    known = read_peers(resources.root() / "configs" / "peers" / "sdxl.yaml")
    assert [peer.name for peer in known][:2] == ["SDXL", "SDXL-Turbo"]
    file = tmp_path / "peers.yaml"
    for text, told in (
        ("- {pipeline: a, stepz: 1}", 'did you mean "steps"'),
        ("- {steps: 1}", "a peer needs a pipeline"),
        ("- {pipeline: x/a}\n- {pipeline: y/a}", 'names "a" twice'),
        ("pipeline: a", "must hold a list"),
        ("[", "cannot read peers"),
    ):
        file.write_text(text)
        assert main(["headline", str(run), "--peers", str(file)]) == 2
        assert told in capsys.readouterr().err
    write_json(run / "summary.json", {})
    assert main(["headline", str(run)]) == 2
    assert "no measured teacher and student" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--scores", "nonsense"], ["--scores", "aesthetic"]])
def test_scores_that_cannot_be_had_end_it_in_one_sentence(run, words, capsys):
    assert main(["headline", str(run), *words, "--device", "cpu"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not (run / "headline.md").exists()


def test_scores_are_measured_once_for_the_run_and_its_peers(run, tmp_path, capsys):
    pytest.importorskip("scorefield.evaluation.scores")
    from tests.evaluation.clips import write_clip

    clip = write_clip(tmp_path / "clip")
    entries = [{"name": "turbo", "pipeline": str(families.write("sd_eps", tmp_path / "turbo")), "steps": 2}]
    (tmp_path / "peers.yaml").write_text(yaml.safe_dump(entries))
    words = ["headline", str(run), "--peers", str(tmp_path / "peers.yaml"), "--device", "cpu"]
    words += ["--scores", "pickscore", "--score-option", f"pickscore.path={clip}"]
    assert main(words) == 0
    found = table(run)
    assert found[0][4] == "PickScore"
    assert len({float(row[4]) for row in found[1:]}) == 3
    assert capsys.readouterr().out.count("scorefield evaluate") == 2
    assert main(words) == 0
    assert "scorefield evaluate" not in capsys.readouterr().out
