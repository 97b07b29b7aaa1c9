"""Prompts beyond the token limit: what is cut is said, by every verb that reads them, and nothing else is."""

import torch

from scorefield.cli import main
from scorefield.resources import asset
from scorefield.teachers.pixart import PixArt
from tasks.text_to_image.prompts import warn_of_cuts
from tests.teachers.families import clip_tokenizer

LIMIT = 64  # tokens of the embedded teacher: 63 bytes of text and the mark of its end
TRAINED = "a red chair, side view, on a grey background, with a tail of WORDS"
MEASURED = "an orange boat, seen from the front, on a navy background at dawn, far away"
SHORT = "a blue robot, front view"


def cut_of(prompt: str) -> str:
    return prompt.lower()[LIMIT - 1 :]


def words_of(root) -> list[str]:
    """A short run in root/run with one long prompt to learn on and one to be measured on."""
    (root / "train.txt").write_text(f"{SHORT}\n{TRAINED}\na green tree\n")
    (root / "held.txt").write_text(f"{MEASURED}\na white house\n")
    settings = {
        "training.iterations": 1,
        "training.batch": 2,
        "training.device": "cpu",
        "evaluation.samples": 2,
        "evaluation.teacher_steps": 1,
        "evaluation.preview": 1,
        "evaluation.judge": "none",
        "evaluation.prompts": root / "held.txt",
        "prompts.path": root / "train.txt",
    }
    words = [f"{key}={value}" for key, value in settings.items()]
    return ["run", "text_to_image", "--out", str(root / "run"), *words]


def test_a_run_and_its_samples_say_what_is_cut(tmp_path, capfd):
    words, pictures = words_of(tmp_path), str(tmp_path / "pictures")
    assert main([*words, "--dry-run"]) == 0
    assert "indexing" not in "".join(capfd.readouterr())
    assert main(words) == 0
    out, err = capfd.readouterr()
    told = [line for line in out.splitlines() if "not seen" in line]
    assert len(told) == 2
    assert told[0].startswith(f'1 of 3 prompts are longer than the teacher reads and are cut; of "{TRAINED[:40]}…"')
    assert told[0].endswith(f'this is not seen: "{cut_of(TRAINED)}"')
    assert told[1].startswith(
        f'1 of 2 held-out prompts are longer than the teacher reads and are cut; of "{MEASURED[:40]}'
    )
    assert told[1].endswith(f'this is not seen: "{cut_of(MEASURED)}"')
    assert "indexing" not in out + err  # transformers' own warning, of errors that do not come

    assert main(["sample", str(tmp_path / "run"), SHORT, MEASURED, "--out", pictures, "--device", "cpu"]) == 0
    out, err = capfd.readouterr()
    (line,) = [line for line in out.splitlines() if "not seen" in line]
    assert line.startswith("1 of 2 prompts are")
    assert f'not seen: "{cut_of(MEASURED)}"' in line
    assert "indexing" not in out + err
    assert main(["sample", str(tmp_path / "run"), SHORT, "--out", pictures, "--device", "cpu"]) == 0
    assert "not seen" not in capfd.readouterr().out


def test_what_is_said_to_be_cut_is_what_is_not_encoded():
    teacher = PixArt(str(asset("toybox") / "pipeline"), max_tokens=LIMIT)
    seen, tail = MEASURED[: LIMIT - 1], teacher.cut(MEASURED)
    assert seen + tail == MEASURED
    whole, kept, shorter = (teacher.encode([text])["text"] for text in (MEASURED, seen, seen[:-1]))
    assert torch.equal(whole, kept)
    assert not torch.equal(whole[:, : shorter.shape[1]], shorter)


def test_texts_that_fit_and_encoders_of_another_length_are_told_rightly(capfd):
    class Clip:
        """CLIP's limit is its tokenizer's, 12 here, whatever max_tokens says."""

        max_tokens = 120

        def cut(self, prompt):
            from scorefield.teachers.pipeline import cut_by

            return cut_by(tokenizer, prompt, tokenizer.model_max_length)

    tokenizer, said = clip_tokenizer(), []
    assert warn_of_cuts(Clip(), ["red", "a b c d e f g h i j"], say=said.append) == 0
    assert warn_of_cuts(Clip(), ["red", "a b c d e f g h i j k l m"], say=said.append) == 1
    assert said[0].startswith("1 of 2 prompts are longer than the teacher reads")
    assert said[0].replace(" ", "").endswith('thisisnotseen:"klm"')
    assert "indexing" not in "".join(capfd.readouterr())
