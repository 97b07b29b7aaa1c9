"""Files of prompts as they are handed around: read whole, or refused with the reason."""

import json

import pytest

from scorefield.cli import main
from scorefield.errors import UserError
from scorefield.prompts.files import read_prompts_file

COCO = {
    "info": {"year": 2017},
    "licenses": [],
    "images": [{"id": 139, "file_name": "000000000139.jpg"}, {"id": 25, "file_name": "000000000025.jpg"}],
    "annotations": [
        {"image_id": 139, "id": 37, "caption": "A room with chairs.\n"},
        {"image_id": 139, "id": 9, "caption": "A living room with a television. "},
        {"image_id": 25, "id": 600, "caption": "A giraffe eats leaves."},
        {"image_id": 25, "id": 601, "caption": "Another one watches."},
    ],
}
PARTI = (
    "Prompt\tCategory\tChallenge\tNote\n"
    "bond\tAbstract\tBasic\tBiology-inspired concepts with multiple meanings\n"
    '"a sign" that says "STOP"\tArtifacts\tWriting & Symbols\t\n'
    "a corgi’s head\tAnimals\tPerspective\n"
    "\n"
)
LONG = [" ".join(f"word{k}" for k in range(400)), "a line\u2028separator and a \x85 next line stay in a prompt"]


def test_coco_captions_are_one_a_picture_in_order(tmp_path):
    (tmp_path / "captions_val2017.json").write_text(json.dumps(COCO))
    found = read_prompts_file(tmp_path / "captions_val2017.json")
    assert found == ["A giraffe eats leaves.", "A living room with a television."]


def test_parti_prompts_keep_their_quotes(tmp_path):
    path = tmp_path / "PartiPrompts.tsv"
    path.write_bytes(b"\xef\xbb\xbf" + PARTI.replace("\n", "\r\n").encode())
    prompts = ["bond", '"a sign" that says "STOP"', "a corgi’s head"]
    assert read_prompts_file(path) == prompts == read_prompts_file(path, "Prompt")
    assert read_prompts_file(path, "category") == ["Abstract", "Artifacts", "Animals"]
    path.write_text("caption\tprompt\nmine\ttheirs\n")
    assert read_prompts_file(path) == ["mine"]


def test_long_prompts_are_read_whole(tmp_path):
    (tmp_path / "long.txt").write_text("\n".join(LONG) + "\n\n")
    assert read_prompts_file(tmp_path / "long.txt") == LONG
    (tmp_path / "long.json").write_text(json.dumps([LONG[0], {"caption": LONG[1]}]))
    assert read_prompts_file(tmp_path / "long.json") == LONG


def test_a_parquet_file_of_which_one_column_is_read(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"caption": ["a", None, " b "], "x": [1, 2, 3]}), tmp_path / "p.parquet")
    assert read_prompts_file(tmp_path / "p.parquet") == ["a", "b"]
    with pytest.raises(UserError, match='no column "text": it has caption, x'):
        read_prompts_file(tmp_path / "p.parquet", "text")
    with pytest.raises(UserError, match="holds texts, not 1"):
        read_prompts_file(tmp_path / "p.parquet", "x")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.json", '{"annotations": [{"image_id": 1, "id": 2, "bbox": []}]}', "no captions of COCO"),
        ("a.json", '{"images": []}', 'no "annotations"'),
        ("a.json", '{"annotations": []}', "holds no prompt"),
        ("a.json", '{"annotations": [{"image_id": 1, "id": 2, "caption": 5}]}', "a caption is a text, not 5"),
        ("a.json", "[1]", "a prompt is a text"),
        ("a.json", "[", "not whole JSON"),
        ("a.tsv", "Promt\tCategory\na\tb\n", r'no column "caption" in its first line: Known: Category, Promt'),
        ("a.tsv", "Category\tPrompt\na\tb\nlone\n", "line 3 has 1 columns"),
        ("a.tsv", "", 'no column "caption"'),
        ("a.csv", "a", "must end in"),
    ],
)
def test_what_is_no_prompt_file_is_told(name, content, expected, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=expected):
        read_prompts_file(tmp_path / name)


def test_a_run_takes_them_for_training_and_for_measuring(tmp_path, capsys):
    (tmp_path / "captions_val2017.json").write_text(json.dumps(COCO))
    (tmp_path / "PartiPrompts.tsv").write_text(PARTI)
    words = [f"prompts.path={tmp_path}/captions_val2017.json", f"evaluation.prompts={tmp_path}/PartiPrompts.tsv"]
    assert main(["run", "text_to_image", "--dry-run", "training.device=cpu", *words]) == 0
    assert "prompts: 2 from" in (said := capsys.readouterr().out)
    assert "measured on 3 others" in said
