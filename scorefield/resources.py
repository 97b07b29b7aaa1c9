"""Where tasks, presets and assets lie: beside the package in a checkout, inside it after an install."""

from pathlib import Path

from scorefield.errors import UserError, suggest


def root() -> Path:
    """Folder that holds tasks/, configs/ and assets/."""
    package = Path(__file__).resolve().parent
    inside = package / "bundled"
    return inside if inside.is_dir() else package.parent


def asset(name: str) -> Path:
    """assets/NAME; raises UserError with the nearest one when it is not there."""
    folder = root() / "assets" / name
    if not folder.exists():
        here = [path.name for path in (root() / "assets").iterdir() if path.is_dir()]
        raise UserError(f'no asset is called "{name}": {suggest(name, here)}')
    return folder


def preset(task: str, name: str) -> Path:
    """configs/TASK/NAME.yaml."""
    return root() / "configs" / task / f"{name}.yaml"
