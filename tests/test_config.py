"""Every preset is accepted, a resolved configuration reads back, and named parts swap whole."""

from pathlib import Path

import pytest

from scorefield import config as configuration
from scorefield.errors import UserError
from scorefield.pretrain.build import PretrainConfig
from scorefield.pretrain.edm import EDMTrainConfig
from scorefield.pretrain.gan import GANTrainConfig
from scorefield.training.settings import RunConfig
from tasks.text_to_image import TextToImage

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


@pytest.mark.parametrize("path", sorted((CONFIGS / "text_to_image").glob("*.yaml")), ids=lambda p: p.stem)
def test_presets_load_and_read_back(path, tmp_path):
    config = configuration.load(TextToImage.Config, path)
    config.build_loss()
    again = tmp_path / "again.yaml"
    again.write_text(configuration.to_yaml(config))
    assert configuration.load(TextToImage.Config, again) == config


@pytest.mark.parametrize("path", sorted((CONFIGS / "teachers").glob("*.yaml")), ids=lambda p: p.stem)
def test_teacher_presets_load(path):
    configuration.load(PretrainConfig, path)


@pytest.mark.parametrize(("folder", "schema"), [("edm", EDMTrainConfig), ("gan", GANTrainConfig)])
def test_labelled_presets_load(folder, schema):
    presets = sorted((CONFIGS / folder).glob("*.yaml"))
    assert presets
    for path in presets:
        configuration.load(schema, path)


def test_another_name_drops_the_options_of_the_old_part():
    config = configuration.load(
        TextToImage.Config, CONFIGS / "text_to_image" / "default.yaml", ["loss.name=sid", "loss.alpha=1.0"]
    )
    assert config.loss == {"name": "sid", "alpha": 1.0}


def test_broken_files_and_values_are_refused(tmp_path):
    broken = tmp_path / "broken.yaml"
    broken.write_text("training: [1, {")
    with pytest.raises(UserError, match="not valid YAML"):
        configuration.load(RunConfig, broken)
    broken.write_text("training: {sed: 1}")
    with pytest.raises(UserError, match=r'did you mean "training.seed"'):
        configuration.load(RunConfig, broken)
    with pytest.raises(UserError, match="key=value"):
        configuration.load(RunConfig, None, ["training.seed"])
    with pytest.raises(UserError, match="accumulation"):
        configuration.load(RunConfig, None, ["training.batch=10", "training.accumulation=3"])


def test_a_section_given_as_a_word_is_its_path():
    config = configuration.load(TextToImage.Config, None, ["teacher=some/folder", "prompts=mine.txt"])
    assert (config.teacher.path, config.prompts.path) == ("some/folder", "mine.txt")
    with pytest.raises(UserError, match="unknown configuration key"):
        configuration.load(TextToImage.Config, None, ["evaluatoin=some"])
