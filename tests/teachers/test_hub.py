"""Teachers that cannot be had: one sentence that says what is wrong and what to do."""

import json
import time

import pytest
import torch

from scorefield.cli import main
from scorefield.errors import UserError
from scorefield.teachers import hub
from scorefield.teachers.auto import adapter_of

from . import families


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return families.write("sd_eps", tmp_path_factory.mktemp("hub") / "pipeline")


def refusal(folder, tmp_path, capsys, *words: str) -> str:
    assert main(["run", "text_to_image", "--out", str(tmp_path / "run"), f"teacher.path={folder}", *words]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    return said[0]


def test_a_pipeline_of_an_unknown_class_is_named(tmp_path, capsys):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "KandinskyPipeline"}))
    said = refusal(tmp_path, tmp_path, capsys)
    assert "is a KandinskyPipeline, which no adapter reads" in said
    assert "FluxPipeline" in said


def test_a_folder_that_is_no_pipeline_and_a_broken_one(tmp_path, capsys):
    assert "model_index.json is missing" in refusal(tmp_path, tmp_path, capsys)
    (tmp_path / "model_index.json").write_text('{"_class_name": ')
    assert "not whole JSON" in refusal(tmp_path, tmp_path, capsys)


def test_a_hub_id_out_of_reach_is_told_at_once(tmp_path, capsys):
    start = time.monotonic()
    said = refusal("somebody/some-model", tmp_path, capsys)
    assert time.monotonic() - start < 10
    assert "somebody/some-model is neither a local folder nor a hub repository that can be reached" in said
    assert "give a local folder" in said


def test_a_variant_without_weights_and_a_wrong_type(folder, tmp_path, capsys):
    from scorefield.teachers.stable_diffusion import StableDiffusion

    with pytest.raises(UserError, match=r'unet of .* has no weights of the variant "fp16": there are none'):
        StableDiffusion(str(folder), variant="fp16")
    said = refusal(folder, tmp_path, capsys, "teacher.options.variant=fp16", "evaluation.judge=none")
    assert "has no weights of the variant" in said
    assert not (tmp_path / "run").exists()  # told before anything is written
    assert "use float32 or bfloat16" in refusal(folder, tmp_path, capsys, "teacher.dtype=float17")
    said = refusal(folder, tmp_path, capsys, "teacher.options.text_dtype=int8", "evaluation.judge=none")
    assert "text_dtype" in said
    said = refusal(folder, tmp_path, capsys, "teacher.options.varient=fp16")
    assert 'did you mean "variant"' in said
    said = refusal(folder, tmp_path, capsys, "teacher.name=stable_difusion")
    assert 'did you mean "stable_diffusion"' in said


def test_missing_weights_are_named(folder, tmp_path):
    import shutil

    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    from scorefield.teachers.stable_diffusion import StableDiffusion

    with pytest.raises(UserError, match="cannot load unet of"):
        StableDiffusion(str(tmp_path / "copy")).denoiser(null=False)


def gated() -> Exception:
    from huggingface_hub.errors import GatedRepoError

    error = OSError("You are trying to access a gated repo.")
    error.__cause__ = GatedRepoError.__new__(GatedRepoError)
    return error


def missing() -> Exception:
    from huggingface_hub.errors import RepositoryNotFoundError

    error = OSError("not a valid model identifier")
    error.__cause__ = RepositoryNotFoundError.__new__(RepositoryNotFoundError)
    return error


@pytest.mark.parametrize(("error", "words"), [(gated(), "is gated: accept its terms"), (missing(), "no such repo")])
def test_a_gated_or_missing_repository_says_how_to_log_in(error, words, monkeypatch):
    import huggingface_hub

    def refuse(*given, **options):
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(UserError) as caught:
        adapter_of("somebody/some-model")
    assert words in str(caught.value)
    assert "hf auth login" in str(caught.value)
    assert "local folder" in str(caught.value)


def test_the_hubs_first_answer_is_waited_for_briefly(monkeypatch):
    import huggingface_hub

    seen = {}

    def noted(*given, **options):
        seen.update(options)
        raise TimeoutError("no answer")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", noted)
    with pytest.raises(UserError):
        hub.read_settings("somebody/some-model", "", "model_index.json")
    assert seen["etag_timeout"] <= 5


def test_weights_are_kept_in_the_asked_type(folder):
    from scorefield.teachers.stable_diffusion import StableDiffusion

    teacher = StableDiffusion(str(folder), dtype=torch.bfloat16)
    denoiser = teacher.denoiser()
    assert denoiser.dtype == torch.bfloat16
    x0 = denoiser(families.start(teacher.latent_shape), torch.ones(2), teacher.encode(["a", "b"]))
    assert x0.dtype == torch.float32
