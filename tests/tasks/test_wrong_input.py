"""Wrong words on the command line: each gives one clear sentence and status 2, before anything is trained."""

import pytest

from scorefield.cli import main
from scorefield.training.session import Session

RUN = ["run", "text_to_image", "training.device=cpu"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A folder of broken things to work in; a run that gets as far as training fails the test."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bin.txt").write_bytes(b"\xff\xfe\x00a")
    (tmp_path / "none.jsonl").write_text('{"caption": "a red chair"}\n{"caption": null}\n')
    (tmp_path / "list.jsonl").write_text("[1, 2]\n")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1xxxx")
    (tmp_path / "open.yaml").write_text("training: [1, 2\n")
    (tmp_path / "section.yaml").write_text("training: 5\n")
    (tmp_path / "other.yaml").write_text("task: particles\n")
    (tmp_path / "typo.yaml").write_text("training:\n  bacth: 4\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "config.yaml").write_text("task: text_to_image\n")
    (tmp_path / "weights.safetensors").write_bytes(b"garbage")
    (tmp_path / "pipe").mkdir()
    (tmp_path / "pipe" / "model_index.json").write_text("{broken")

    def trained(self):
        raise AssertionError("it trains")

    monkeypatch.setattr(Session, "run", trained)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "name a verb"),
        ([*RUN, "teacher=weights.safetensors"], "weights.safetensors is a file"),
        (["bogus"], "unknown verb"),
        (["run"], "required: task (scorefield run --help"),
        (["list", "extra"], 'does not take "extra"'),
        (["sample", "fake", "a"], "no whole checkpoint"),
        (["sample", "fake"], "required: prompts"),
        (["evaluate", "fake", "--samples", "x"], "invalid int value: 'x'"),
        (["report", "folder"], "no config.yaml"),
        (["train-teacher"], "required: --out"),
        (["train-teacher", "--out", "file/x"], "cannot make the folder file/x"),
        ([*RUN, "--config", "open.yaml"], "open.yaml is not valid YAML"),
        ([*RUN, "--config", "section.yaml"], '"training" is a section'),
        ([*RUN, "--config", "typo.yaml"], 'did you mean "training.batch"'),
        ([*RUN, "--config", "other.yaml"], "other.yaml is for task particles"),
        ([*RUN, "task=particles"], "does not fit the task that was asked for, text_to_image"),
        (["config", "text_to_image", "task=particles"], "does not fit the task that was asked for, text_to_image"),
        ([*RUN, "--out", "file"], "cannot make the folder file"),
        ([*RUN, "--resume"], "--resume needs --out"),
        ([*RUN, "noequals"], "write key=value"),
        ([*RUN, "loss=sid"], "set loss.name"),
        ([*RUN, "loss.name="], "name of a loss is a word"),
        ([*RUN, "loss.c=[1,"], "bracket or quote"),
        ([*RUN, "training.iterations="], "a value is missing"),
        ([*RUN, "training.guidance_scale=nan"], "must be finite"),
        ([*RUN, "training.generator.betas=[0.0,1.5]"], "each of betas must be at least 0 and below 1"),
        ([*RUN, "training.generator.learning_rate=nan"], "learning_rate must be above 0"),
        ([*RUN, "training.online.weight_decay=-1"], "weight_decay must be at least 0"),
        ([*RUN, "training.online.clip_norm=-1"], "clip_norm must be at least 0"),
        ([*RUN, "training.ema_rampup=-1"], "training.ema_rampup must be at least 0"),
        ([*RUN, "training.sigma_data=0"], "sigma_data must be above 0"),
        ([*RUN, "training.generator_noise.std=-1"], "standard deviation of a noise law"),
        ([*RUN, "training.online_noise.mean=high"], 'option "mean" of noise law "log_normal" must be a finite number'),
        ([*RUN, "training.online_noise.mean=.nan"], 'option "mean" of noise law "log_normal" must be a finite number'),
        ([*RUN, "training.generator_noise={name: karras, u_max: high}"], 'option "u_max" of noise law "karras" must'),
        ([*RUN, "training.online_training_guidance_scale=nan"], "online_training_guidance_scale must be finite"),
        ([*RUN, "training.guidance_stages={5: .nan}"], "the scale from iteration 5 on must be a finite number"),
        ([*RUN, "teacher.options.resolution=big"], 'option "resolution" of teacher "pixart" must be a whole number'),
        ([*RUN, "monitors.enabled=[foo]"], 'unknown monitor "foo"'),
        ([*RUN, "monitors.lines.foo=3"], 'unknown monitor "foo"'),
        ([*RUN, "prompts.count=0"], "prompts.count must be at least 1"),
        ([*RUN, "prompts.count=-4"], "prompts.count must be at least 1"),
        ([*RUN, "prompts.path=bin.txt"], "not UTF-8"),
        ([*RUN, "prompts.path=none.jsonl"], "line 2"),
        ([*RUN, "prompts.path=list.jsonl"], "line 1"),
        ([*RUN, "prompts.path=bad.parquet"], "as parquet"),
        ([*RUN, "generator.init=nowhere"], "nor a path that exists"),
        ([*RUN, "generator.init=weights.safetensors"], "cannot read generator weights"),
        ([*RUN, "generator.init_sigma=1e9"], "beyond what the teacher knows"),
        ([*RUN, "generator.init_sigma=0"], "init_sigma must be above 0"),
        ([*RUN, "evaluation.teacher_steps=5000"], "more than the teacher's 1000"),
        ([*RUN, "teacher.max_tokens=0"], "max_tokens must be at least 1"),
        ([*RUN, "teacher.path=pipe"], "model_index.json is not whole JSON"),
        ([*RUN, "loss.name=moment_matching", "generator.name=few_step"], "on noised data only"),
        ([*RUN, "loss.name=moment_matching", "loss.pull=-1"], "pull must be at least 0"),
        ([*RUN, "online.kind=lora", "online.lora_rank=0"], "lora_rank must be at least 1"),
        ([*RUN, "generator.kind=lora", "generator.lora_rank=0"], "lora_rank must be at least 1"),
        ([*RUN, "online.kind=lora", "online.lora_targets=[to_q,to_w]"], 'called "to_w": did you mean "to_v"'),
        ([*RUN, "generator.kind=lora", "generator.lora_targets=[to_out]"], 'called "to_out": did you mean "to_out.0"'),
        (["run", "particles", "online.kind=lora", "online.lora_targets=[key]"], 'is called "key": Known: '),
        (
            ["run", "text_to_3d", "prompt=a red chair", "online.lora_targets=[to_kk]"],
            'is called "to_kk": did you mean "to_k"',
        ),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, list) else "",
)
def test_one_clear_line(words, expected, capsys, tmp_path):
    assert main(words) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1, said
    assert said[0].startswith("scorefield: ")
    assert expected in said[0]
    assert not (tmp_path / "runs").exists()


def test_a_task_folder_is_found_again_from_another_place(tmp_path, monkeypatch):
    from scorefield.plugins import lasting_name

    (tmp_path / "mine").mkdir()
    assert lasting_name("mine") == str(tmp_path / "mine")
    assert lasting_name("text_to_image") == "text_to_image"
