"""The model card of an export: front matter that the hub takes, and figures, samples and settings of the run itself."""

import json

import pytest
from huggingface_hub import ModelCard

from scorefield.cli import main
from scorefield.errors import UserError
from scorefield.export.card import Card, base_of
from scorefield.files import write_json
from scorefield.runfolder import RunFolder
from tasks.text_to_image.export import place_of

MEASURED = {"prompt_accuracy": 0.75, "frechet": 0.123456, "precision": 0.5, "recall": 0.25, "diversity": 0.5}


def test_the_card_tells_of_the_run(run, capsys):
    summary = json.loads((run / "summary.json").read_text())
    summary["student"] |= MEASURED
    summary["teacher"] |= MEASURED | {"frechet": 0.0987}
    write_json(run / "summary.json", summary)
    words = ["--base-model", "some/toybox", "--license", "openrail++"]
    assert main(["export", str(run), *words]) == 0
    out = run / "export"
    files = {path.name for path in (out / "lora").iterdir()}
    assert files >= {"adapter_config.json", "adapter_model.safetensors", "scheduler"}
    card = ModelCard.load(out / "README.md")
    data = card.data.to_dict()
    assert data["base_model"] == "some/toybox"
    assert data["base_model_relation"] == "finetune"
    assert data["license"] == "openrail++"
    assert data["library_name"] == "diffusers"
    assert data["pipeline_tag"] == "text-to-image"
    found = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert set(found) == {"accuracy", "frechet_distance", "precision", "recall", "diversity"}
    assert found["frechet_distance"] == 0.123456
    assert card.data.eval_results[0].dataset_name == "4 held-out prompts of prompts.txt"
    assert len(data["widget"]) == 4
    for sample in data["widget"]:
        assert (out / sample["output"]["url"]).is_file()
    text = card.text
    for told in (
        "| teacher | 2 | 2 | 0.75 | 0.0987 |",
        "| student | one_step, lora |",
        "pseudo_huber",
        "lora_rank: 2",
        "There is no kohya key layout for a PixArtSigmaPipeline",
        "![student](samples/0000-student.png)",
        "under its licence, openrail++",
    ):
        assert told in text, told
    assert str(run.parent.parent) not in text  # nobody else's business
    assert main(["export", str(run), "--only", "kohya"]) == 2
    assert "no kohya key layout" in capsys.readouterr().err
    assert main(["export", str(run), "--license", "opnrail++"]) == 2
    assert 'no licence identifier "opnrail++"' in capsys.readouterr().err
    assert ModelCard.load(out / "README.md").text == text  # what failed left the export as it was


def test_the_licence_is_the_teachers_own(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: other\nlicense_name: mine\nlicense_link: LICENSE.md\n---\nhello")
    base = base_of(str(tmp_path), "org/model")
    assert (base.license, base.license_name) == ("other", "mine")
    assert base.license_link == "https://huggingface.co/org/model/blob/main/LICENSE.md"
    told = base_of(str(tmp_path), "org/model", "house rules", "https://example.org/rules")
    assert (told.license, told.license_name, told.license_link) == ("other", "house rules", "https://example.org/rules")
    (tmp_path / "README.md").write_text("no front matter")
    known = base_of(str(tmp_path), "black-forest-labs/FLUX.1-dev")
    assert known.license_name == "flux-1-dev-non-commercial-license"
    assert base_of(str(tmp_path)).license == ""
    assert base_of("toybox").license == "apache-2.0"
    assert base_of("toybox").name == "toybox"
    assert place_of("toybox") == "assets/toybox/pipeline"
    assert place_of(str(tmp_path)) == str(tmp_path)
    with pytest.raises(UserError, match="did you mean"):
        base_of(str(tmp_path), license="apache-2")


def test_an_unfinished_run_has_no_figures_and_says_so(tmp_path):
    (tmp_path / "config.yaml").write_text("teacher: {path: somewhere}\n")
    card = Card("mine", "A student.", "", base_of(str(tmp_path)), RunFolder(tmp_path))
    text = card.text()
    assert "Not measured" in text
    assert "whose licence is not known here" in text
    data = ModelCard(text).data.to_dict()
    assert "model-index" not in data
    assert "base_model" not in data
    assert "license" not in data
    write_json(tmp_path / "summary.json", {"student": {"frechet": 0.5, "steps": 1}, "evaluated_prompts": 7})
    assert '"value": 0.5' in json.dumps(ModelCard(card.text()).data.eval_results, default=vars).replace("metric_", "")
