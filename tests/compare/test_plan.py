"""Reading, resolving and refusing: everything that happens before a run starts."""

from pathlib import Path

import pytest

from scorefield import resources
from scorefield.cli import main
from scorefield.compare import spec as asked
from scorefield.compare.plan import iterations_for, layered, make_plan
from scorefield.compare.spec import Spec, VariantSpec, overrides_of, seeds_of
from scorefield.errors import UserError

CPU = ["training.device=cpu"]
SHIPPED = sorted((Path(resources.root()) / "configs" / "compare").glob("*.yaml"))


def plan(*variants: str, **more):
    more.setdefault("common", CPU)
    return make_plan(Spec(variants=[asked.variant_of_text(text) for text in variants], **more))


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_comparison_passes_a_dry_run(path, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["compare", path.stem, "--dry-run", *CPU]) == 0
    said = capsys.readouterr().out
    for variant in asked.read(path).variants:
        assert f"\n{variant.name} " in said
    assert not list(tmp_path.iterdir())  # nothing is written


def test_the_brief_list_of_comparisons_is_there():
    names = "losses huber_constant learning_rate online_updates noise_laws lora sid_alpha start toybox_sweep"
    assert {path.stem for path in SHIPPED} >= set(names.split())


def test_a_file_in_all_its_forms(tmp_path):
    spec = asked.read(
        written(
            tmp_path,
            """
            title: T
            seeds: [3, 1]
            common: {training: {iterations: 7, generator: {learning_rate: 2.0e-4}}, loss.c: null}
            budget: {images: 5e2}
            variants:
              a: [loss.name=sid, "training.generator.betas=[0.0, 0.9]"]
              b: {title: Bee, note: n, loss: {name: sim, kappa: 1.0}, training.compile: false}
              c:
              d: loss.name=dmd loss.weighting=none
              e: {title: E, overrides: [loss.name=vsd]}
            """,
        )
    )
    assert (spec.name, spec.title, spec.seeds, spec.budget) == ("mine", "T", [3, 1], {"images": 500.0})
    assert spec.common == ["training.iterations=7", "training.generator.learning_rate=0.0002", "loss.c=null"]
    found = {v.name: v.overrides for v in spec.variants}
    assert found == {
        "a": ["loss.name=sid", "training.generator.betas=[0.0, 0.9]"],
        "b": ["loss.name=sim", "loss.kappa=1.0", "training.compile=false"],
        "c": [],
        "d": ["loss.name=dmd", "loss.weighting=none"],
        "e": ["loss.name=vsd"],
    }
    assert (spec.variants[1].title, spec.variants[1].note) == ("Bee", "n")
    assert Spec.from_dict(spec.to_dict()) == spec


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("variants: {}", "nothing to compare"),
        ("task: text_to_image", "nothing to compare"),
        ("variants:\n  a:\n  a:\n", '"a" stands twice'),
        ("variants: {Sim: , sim: }", 'two variants are called "sim"'),
        ("variants: {a: , b: }\nseeds: []", "seeds must be a list"),
        ("variants: {a: , b: }\nseeds: [1, 1]", "seed 1 stands twice"),
        ("varients: {a: }", 'did you mean "variants"'),
        ("variants: {a/b: }", "names a folder"),
        ("variants: {no: }", "put it in quotes"),
        ("variants: {a: 3}", "list or a mapping"),
        ("variants: {a: [x]}", '"x" is not an override'),
        ("variants: [a]", "mapping of name"),
        ("variants: {a: {training.iteratons: 4}}", 'variant "a": unknown configuration key "training.iteratons"'),
        ("variants: {a: {loss.name: simm}}", 'variant "a": unknown loss "simm"'),
        ("variants: {a: , b: {training.online_noise.mea: 1}}", 'variant "b": unknown option "mea"'),
        ("budget: {pictures: 3}\nvariants: {a: }", 'unknown budget "pictures"'),
        ("budget: {images: -3}\nvariants: {a: }", "positive number"),
        ("budget: {images: 3, minutes: 2}\nvariants: {a: }", "must name one of"),
        ("budget: {images: 3}\nvariants: {a: }", "less than one iteration"),
        ("task: text_to_imag\nvariants: {a: }", "text_to_image"),
        ("- a", "key: value pairs"),
        ("a: [", "not valid YAML"),
        ("variants: {a: {generator.init: 'run:b'}, b: }", 'the run of "b", which is no variant before it'),
    ],
)
def test_mistakes_in_a_file_get_one_clear_line(text, expected, tmp_path, capsys):
    assert main(["compare", str(written(tmp_path, text)), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1, said
    assert expected in said[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("override", "key", "values"),
    [
        ("evaluation.samples=100", "evaluation.samples", ["500", "100"]),
        ("prompts.count=64", "prompts.count", ["4096", "64"]),
        ("teacher.max_tokens=32", "teacher.max_tokens", ["64", "32"]),
        ("teacher.options.negative_prompt=dark", "teacher.options.negative_prompt", ["left out", "'dark'"]),
        ("training.device=auto", "training.device", ["'cpu'", "'auto'"]),
        ("evaluation.judge=none", "evaluation.judge", ["'toybox'", "'none'"]),
        ("training.seed=4", "training.seed", ["4", "[0]"]),
        ("task=other", "task", ["other", "text_to_image"]),
    ],
)
def test_variants_that_cannot_be_compared_are_refused_with_key_and_values(override, key, values):
    with pytest.raises(UserError) as caught:
        plan("a: loss.c=1", f"b: {override}")
    assert all(part in str(caught.value) for part in (key, '"b"', *values)), caught.value


@pytest.mark.parametrize("task", ["particles", "text_to_3d"])
def test_another_prompt_of_a_task_of_one_prompt_is_refused(task):
    if task == "text_to_3d":
        pytest.importorskip("nerfacc")
    words = [*CPU, "evaluation.judge=none"]
    with pytest.raises(UserError, match="prompt is 'a red chair' in one and 'a blue car' in the other"):
        plan("a: prompt='a red chair'", "b: prompt='a blue car'", common=words, task=task)
    assert (
        len(plan("a: loss.name=sim", "b: loss.name=sds", common=[*words, "prompt=a red chair"], task=task).variants)
        == 2
    )


def test_a_teacher_kept_in_other_numbers_is_the_same_teacher():
    assert plan("a: teacher.dtype=bfloat16", "b: loss.c=1")


def test_other_prompts_are_refused(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("a red chair\na blue boat\n")
    with pytest.raises(UserError, match=r"prompts.path is .toybox. in one and .*mine.txt"):
        plan("a: loss.c=1", f"b: prompts.path={path}", common=[*CPU, "evaluation.prompts=toybox:9"])


def test_a_seed_in_common_and_iterations_beside_a_budget_are_refused():
    with pytest.raises(UserError, match=r"common sets training.seed=2"):
        plan("a: loss.c=1", common=[*CPU, "training.seed=2"])
    with pytest.raises(UserError, match=r'variant "a" sets training.iterations=5, but the budget 6400 images'):
        plan("a: training.iterations=5", budget={"images": 6400.0})


def test_command_line_variants_need_no_file(tmp_path, capsys):
    words = ["--variant", "a: loss.c=1", "--variant", "b: loss.name=sid", "training.batch=32", "--seeds", "0,2"]
    assert main(["compare", "--dry-run", "--budget", "images=3200", *words, *CPU]) == 0
    said = capsys.readouterr().out
    assert "2 variants × 2 seeds = 4 runs" in said
    assert [line.split()[:4] for line in said.splitlines() if line.startswith(("a ", "b "))] == [
        ["a", "100", "32", "3200"],
        ["b", "100", "32", "3200"],
    ]


def test_a_budget_is_spent_by_cost():
    found = plan(
        "cheap: loss.name=dmd", "dear: loss.name=sim training.batch=32", budget={"network_evaluations": 57600.0}
    )
    assert {v.name: (v.passes, v.iterations) for v in found.variants} == {"cheap": (12, 75), "dear": (15, 120)}
    assert {v.network_evaluations for v in found.variants} == {57600}
    images = plan("a: training.batch=64", "b: training.batch=48", budget={"images": 6400.0})
    assert [v.iterations for v in images.variants] == [100, 133]
    assert iterations_for("images", 6432, images.variants[0]) == 100  # 100.5: to the nearest (even)
    minutes = plan("cheap: loss.name=dmd", "dear: loss.name=sim", budget={"minutes": 2.0})
    assert [v.iterations for v in minutes.variants] == [0, 0]
    minutes.set_speed(0.001)  # 120 s make 120,000 network evaluations
    assert [v.iterations for v in minutes.variants] == [round(120_000 / (12 * 64)), round(120_000 / (15 * 64))]


def test_the_common_options_of_another_part_are_dropped():
    free = ["loss", "training.online_noise"]
    assert layered(["loss.name=sim", "loss.c=1", "x=2"], ["loss.name=sid"], free) == ["x=2", "loss.name=sid"]
    assert layered(["loss.name=sim", "loss.c=1"], ["loss.name=sim"], free) == [
        "loss.name=sim",
        "loss.c=1",
        "loss.name=sim",
    ]
    assert layered(["loss.weighting=none"], ["loss.name=sid"], free) == ["loss.weighting=none", "loss.name=sid"]


def test_words_of_a_run_hold_seed_budget_and_the_run_it_starts_from(tmp_path):
    found = plan("first: loss.c=1", "second: generator.init=run:first", seeds=[7], budget={"images": 640.0})
    first, second = found.jobs(tmp_path)
    assert found.words(first)[-2:] == ["training.seed=7", "training.iterations=10"]
    assert f"generator.init={tmp_path / 'first-seed7'}" in found.words(second)
    assert second.variant.starts == ["first"]


def test_seeds_come_in_several_forms():
    assert (seeds_of("0, 3"), seeds_of(4), seeds_of([1, 2])) == ([0, 3], [4], [1, 2])
    for bad in ("", "a", [-1], [True], [1.5]):
        with pytest.raises(UserError, match="seeds must be"):
            seeds_of(bad)


def test_overrides_of_a_nested_mapping():
    assert overrides_of({"a": {"b": 1, "c": [1, "x"]}, "d": "y z", "e": {}}, "w") == [
        "a.b=1",
        'a.c=[1, "x"]',
        "d=y z",
        "e={}",
    ]
    assert VariantSpec("a", []).title == ""


def test_an_override_without_effect_is_refused(capsys):
    assert main(["compare", "online_updates", "--dry-run", "training.online_updates=3", *CPU]) == 2
    assert "every variant sets training.online_updates itself" in capsys.readouterr().err
    assert main(["compare", "online_updates", "--dry-run", "training.fresh_samples=true", *CPU]) == 0
