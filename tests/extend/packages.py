"""Code blocks out of Markdown, and scratch distributions that importlib.metadata sees without an installer."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def blocks(document: str) -> list[tuple[str, str | None, str]]:
    """(language, title or None, text) of every fenced block of a file of this repository, word for word."""
    return FENCE.findall((ROOT / document).read_text(encoding="utf-8"))


def section(document: str, heading: str) -> str:
    """The text below a heading up to the next one of the same level."""
    text = (ROOT / document).read_text(encoding="utf-8")
    level = heading.split(" ")[0]
    return text.split(f"\n{heading}\n", 1)[1].split(f"\n{level} ", 1)[0]


def write_files(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def make_visible(folder: Path) -> None:
    """Write the dist-info that an installer makes of the folder's pyproject.toml."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    lines = []
    for group, points in project.get("entry-points", {}).items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items()), ""]
    info = f"{project['name']}-{project['version']}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    write_files(folder, {f"{info}/METADATA": metadata, f"{info}/entry_points.txt": "\n".join(lines)})


def distribution(folder: Path, name: str, points: dict[str, dict[str, str]], files: dict[str, str]) -> Path:
    """A scratch distribution in ``folder``/``name`` with entry points {group: {name: value}} and files."""
    groups = "".join(
        f'[project.entry-points."{group}"]\n' + "".join(f'{key} = "{value}"\n' for key, value in these.items())
        for group, these in points.items()
    )
    home = folder / name
    write_files(home, {"pyproject.toml": f'[project]\nname = "{name}"\nversion = "0.3"\n{groups}', **files})
    make_visible(home)
    return home
