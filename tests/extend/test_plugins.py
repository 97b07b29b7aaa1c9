"""Entry points: what is imported when, what is refused, and what a broken plugin shows."""

import subprocess
import sys
import time

import pytest

from scorefield import losses, plugins
from scorefield.cli import main
from scorefield.errors import UserError
from scorefield.noise_laws import NOISE_LAWS
from scorefield.registry import Registry

from .packages import distribution

LOSS = """
from dataclasses import dataclass
from scorefield.losses.base import Loss, sum_elements

@dataclass(frozen=True)
class Pull(Loss):
    "Towards the teacher."
    def per_sample(self, *, x0, teacher_x0, **rest):
        return sum_elements((x0 - teacher_x0.detach()).square()) / 2
"""


def one_loss(tmp_path, name: str, text: str = LOSS, part: str = "pull"):
    return distribution(tmp_path, name, {"scorefield.losses": {part: f"{name}_part:Pull"}}, {f"{name}_part.py": text})


def test_a_loss_of_an_installed_package_is_found_and_imported_once_asked(tmp_path, visible):
    visible(one_loss(tmp_path, "north"))
    assert "pull" in losses.LOSSES
    assert "pull" in list(losses.LOSSES)
    assert "north_part" not in sys.modules
    assert type(losses.build("pull", weighting="edm")).__name__ == "Pull"
    assert "north_part" in sys.modules
    with pytest.raises(UserError, match='did you mean "pull"'):
        losses.build("pulll")
    with pytest.raises(UserError, match='unknown option "strength" of loss "pull"'):
        losses.build("pull", strength=2)


def test_a_plugin_may_register_itself_as_well(tmp_path, visible):
    text = LOSS.replace("@dataclass", '@LOSSES.register("pull")\n@dataclass').replace(
        "import Loss,", "import LOSSES, Loss,"
    )
    visible(one_loss(tmp_path, "north", text))
    assert losses.build("pull") == losses.build("pull")


def test_two_plugins_of_one_name_are_refused_with_both_named(tmp_path, visible, capsys):
    visible(one_loss(tmp_path, "north"))
    visible(one_loss(tmp_path, "south"))
    with pytest.raises(UserError, match=r"north 0\.3 \(north_part:Pull\) and south 0\.3 \(south_part:Pull\)"):
        losses.build("pull")
    assert losses.build("sim")
    assert main(["list"]) == 0
    assert capsys.readouterr().out.count("REFUSED") == 2


def test_the_name_of_one_of_our_own_is_refused(tmp_path, visible, capsys):
    visible(one_loss(tmp_path, "north", part="sim"))
    with pytest.raises(UserError, match=r'loss "sim" of north 0\.3 .* scorefield\'s own'):
        losses.build("sim")
    assert losses.build("sid")
    assert main(["run", "text_to_image", "--dry-run", "training.device=cpu"]) == 2
    assert "north 0.3" in capsys.readouterr().err


def test_a_name_that_another_package_registered_by_hand_is_refused(tmp_path, visible):
    visible(one_loss(tmp_path, "north"))
    losses.LOSSES.register("pull")(type(losses.build("sim")))  # this test module is the other package
    with pytest.raises(UserError, match="registered by tests"):
        losses.build("pull")


@pytest.mark.parametrize(
    "trouble", ["import nowhere_to_be_found", "1 / 0", "from scorefield.errors import UserError; raise UserError('x')"]
)
def test_a_broken_plugin_shows_its_own_traceback(tmp_path, visible, trouble):
    home = one_loss(tmp_path, "north", f"def deep():\n    {trouble}\n\ndeep()\n")
    words = ["run", "text_to_image", "--dry-run", "loss.name=pull"]
    code = f"import sys; sys.path.insert(0, {str(home)!r}); from scorefield.cli import main; sys.exit(main({words!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "in deep" in done.stderr
    assert 'loss "pull" of north 0.3 (north_part:Pull) cannot be imported' in done.stderr
    visible(home)
    assert losses.build("sim")
    assert main(["list"]) == 0


def test_a_plugin_that_delivers_something_else_is_refused(tmp_path, visible):
    visible(one_loss(tmp_path, "north", "Pull = 3\n"))
    with pytest.raises(UserError, match=r'loss "pull" of north 0\.3 .* is 3, not a subclass of scorefield.losses.Loss'):
        losses.build("pull")


def test_distances_and_noise_laws_come_along_too(tmp_path, visible):
    text = """
from dataclasses import dataclass
from scorefield.losses import Distance

half = Distance(lambda y, c, k: y.square().flatten(1).sum(1) / 2, lambda y, c, k: y, lambda k: 2.0)

@dataclass(frozen=True)
class Fixed:
    sigma: float = 1.0
    sigma_min: float = 0.1
    sigma_max: float = 10.0

    def __call__(self, u):
        return u * 0 + self.sigma
"""
    points = {"scorefield.distances": {"half": "parts:half"}, "scorefield.noise_laws": {"fixed": "parts:Fixed"}}
    visible(distribution(tmp_path, "east", points, {"parts.py": text}))
    import torch

    from scorefield import noise_laws

    x_t = torch.randn(3, 4)
    seen = {
        "x0": torch.zeros(3, 4),
        "x_t": x_t,
        "sigma": torch.ones(3),
        "teacher_x0": 0.2 * x_t,
        "online_x0": 0.5 * x_t,
    }
    half, whole = (losses.build("sim", distance=name)(**seen) for name in ("half", "squared_l2"))
    torch.testing.assert_close(2 * half, whole)
    assert noise_laws.build({"name": "fixed", "sigma": 2.0})(torch.rand(3)).tolist() == [2.0] * 3
    assert "fixed" in NOISE_LAWS


TASK = """
from scorefield.task import Task

class Mine(Task):
    name = "mine"

    def plan(self):
        return ["me"]
"""


@pytest.mark.parametrize("value", ["mine_task", "mine_task:Mine"])
def test_a_task_by_module_or_class(tmp_path, visible, capsys, value):
    visible(distribution(tmp_path, "west", {"scorefield.tasks": {"mine": value}}, {"mine_task.py": TASK}))
    assert main(["run", "mine", "--dry-run", "training.device=cpu"]) == 0
    assert "me" in capsys.readouterr().out.split()
    assert main(["run", "mime", "--dry-run"]) == 2
    assert 'did you mean "mine"' in capsys.readouterr().err


def test_a_task_with_a_taken_name_is_refused(tmp_path, visible):
    points = {"scorefield.tasks": {"text_to_image": "mine_task", "twin": "mine_task"}}
    visible(distribution(tmp_path, "west", points, {"mine_task.py": TASK}))
    with pytest.raises(UserError, match=r'task "text_to_image" of west 0\.3 .* scorefield\'s own'):
        plugins.load_task("text_to_image")
    visible(distribution(tmp_path, "east", {"scorefield.tasks": {"twin": "other:X"}}, {}))
    with pytest.raises(UserError, match=r"east 0\.3 .* and west 0\.3"):
        plugins.load_task("twin")


def test_light_verbs_stay_light(tmp_path):
    home = one_loss(tmp_path, "north", "raise SystemError('imported')\n")
    code = (
        f"import sys; sys.path.insert(0, {str(home)!r}); from scorefield.cli import main; main(['list']); "
        "print('torch' in sys.modules)"
    )
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert time.monotonic() - start < 2
    assert done.stdout.splitlines()[-1] == "False"
    assert "pull" in done.stdout


def test_a_new_file_of_our_own_is_found_without_an_edit(tmp_path, monkeypatch):
    package = tmp_path / "grove"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from scorefield.registry import Registry\nTREES = Registry('tree', package='grove')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import grove

    (package / "oak.py").write_text("from grove import TREES\n\n@TREES.register('oak')\nclass Oak:\n    pass\n")
    assert list(grove.TREES) == ["oak"]
    (package / "elm.py").write_text("raise ImportError('no elm')\n")
    with pytest.raises(ImportError, match="no elm"):
        Registry("tree", package="grove").get("oak")
    for name in ("grove", "grove.oak"):
        sys.modules.pop(name, None)


def test_a_monitor_of_an_installed_package_is_known(tmp_path, visible):
    from scorefield.monitors import MONITORS

    text = (
        "from scorefield.monitors import Monitor\n\nclass Mist(Monitor):\n    name = 'mist'\n    line = 0.5\n\n"
        "    def figure(self, probe):\n        return float(probe.x0.abs().mean())\n"
    )
    visible(distribution(tmp_path, "fog", {"scorefield.monitors": {"mist": "fog_part:Mist"}}, {"fog_part.py": text}))
    assert {"mist", "noise", "lag"} <= set(MONITORS)
    assert MONITORS.get("mist")().crossed(0.6, 0.5)


def test_a_page_imports_no_monitor_that_its_run_did_not_ask_for(tmp_path, visible):
    from types import SimpleNamespace

    from scorefield.report.page import _lines

    visible(
        distribution(tmp_path, "fog", {"scorefield.monitors": {"mist": "fog_part:Mist"}}, {"fog_part.py": "1 / 0\n"})
    )
    lines = _lines(SimpleNamespace(config="monitors: {enabled: [noise, lag], lines: {lag: 3}}"))
    assert lines["lag"] == 3
    assert set(lines) == {"noise", "lag"}
    assert "noise" in _lines(SimpleNamespace(config="task: old"))
    with pytest.raises(plugins.PluginError, match=r"mist.*fog 0\.3"):
        _lines(SimpleNamespace(config="monitors: {enabled: [mist]}"))
