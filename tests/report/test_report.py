"""The page from a realistic run folder, and from every kind of broken or unfinished one."""

import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from scorefield.errors import UserError
from scorefield.images import save_grid, save_image
from scorefield.report import build_report
from scorefield.report.page import filmstrip, last_sheet
from scorefield.report.source import RunData

from .made_up import EVIL, drawing, metrics, prompts, summary, write, write_evaluation

torch.set_num_threads(1)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run of 1,200 iterations."""
    folder = tmp_path / "run"
    write(folder / "config.yaml", "training:\n  iterations: 1200\n  seed: 0\nloss:\n  name: sim # <b>\n")
    environment = {
        "versions": {"python": "3.11.9", "torch": "2.15.0"},
        "device": "cpu",
        "git_revision": "0123456789abcdef0123456789abcdef01234567",
        "seed": 0,
        "command": "scorefield run text_to_image note='<i>'",
        "started": "2026-11-23T20:52:46+0000",
    }
    write(folder / "environment.json", environment)
    write(folder / "metrics.jsonl", "".join(json.dumps(r) + "\n" for r in metrics(1200)))
    asked = prompts(8)
    write(folder / "samples" / "layout.json", {"prompts": [p[0] for p in asked], "columns": 4, "tile": 64})
    for k in range(0, 1201, 100):
        tiles = [drawing(p[1], p[2], 0.85 * math.exp(-k / 250) + 0.05, k + i) for i, p in enumerate(asked)]
        save_grid(torch.stack(tiles), folder / "samples" / f"iteration-{k:06d}.png", 4)
    save_grid(
        torch.stack([drawing(p[1], p[2], 0.02, i) for i, p in enumerate(asked)]),
        folder / "samples/teacher.png",
        4,
    )
    write_evaluation(folder, 30)
    write(folder / "summary.json", summary(1200, 1200))
    return folder


class Page(HTMLParser):
    """Collects what the tests look at, and checks that every element is closed in order."""

    VOID = ("meta", "link", "img", "input", "br")

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        for key, value in attrs:
            if key in ("src", "href"):
                self.links.append(value or "")
            if key == "id":
                self.ids.append(value)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def page_of(run: Path) -> Page:
    return Page(build_report(run).read_text(encoding="utf-8"))


def test_a_finished_run_has_every_section_in_order(run):
    page = page_of(run)
    order = ["pairs", "film", "curves", "final", "speed", "attributes", "worst", "environment", "config"]
    assert [i for i in page.ids if i in order] == order
    assert "unfinished" not in page.text
    expected = (
        "In one step the student follows 91.2 % of its prompts, 97.4 % of the teacher's 93.6 %, lies at "
        "1.16 × the teacher's Fréchet distance and draws a picture 45 × faster (teacher: 32 steps)."
    )
    assert expected in page.text
    assert "2.98 GiB" in page.text
    assert "real images, the ceiling" in page.text


def test_the_page_is_self_contained(run):
    text = build_report(run).read_text(encoding="utf-8")
    page = Page(text)
    assert page.links
    assert all(link.startswith("data:") for link in page.links)
    assert "http:" not in text.replace("http://www.w3.org", "")
    assert "https:" not in text
    assert "url(" not in text
    assert "@import" not in text
    assert len(text) < 6_000_000
    assert not list(run.glob(".report*"))


def test_all_text_is_escaped(run):
    text = build_report(run).read_text(encoding="utf-8")
    assert "<script" not in text
    assert "<i>'" not in text
    assert "sim # <b>" not in text
    assert "judge <v1>" not in text
    page = Page(text)
    assert EVIL in page.text
    assert "script" not in page.seen


def test_pictures_verdicts_and_misreadings(run):
    page = page_of(run)
    shown = [r for n in ("pairs", "worst") for r in json.loads((run / f"evaluation/{n}.json").read_text())]
    film = 6 * 9  # six prompts, eight iterations and the teacher
    assert page.seen.count("img") == 2 * len(shown) + film
    wrong = sum((not r["teacher_ok"]) + (not r["student_ok"]) for r in shown)
    assert page.text.count("✗") == wrong
    assert page.text.count("✓") == 2 * len(shown) - wrong
    assert re.search(r"(red|blue|green) read as yellow", page.text)


def test_film_tiles_are_cut_from_the_right_place(run):
    import base64
    import io

    from PIL import Image

    from scorefield.images import cut_grid, to_uint8

    film = filmstrip(RunData.read(run))
    assert film["head"][0] == "0"
    assert film["head"][-2:] == ["1\u202f200", "teacher"]
    for row in (0, 5):
        content = base64.b64decode(film["rows"][row][1][-1].partition(",")[2])
        shown = Image.open(io.BytesIO(content)).tobytes()
        tile = to_uint8(cut_grid(run / "samples/teacher.png", 64, 4, 8))[row]
        assert shown == tile.permute(1, 2, 0).contiguous().numpy().tobytes()


def test_a_layout_that_names_its_rows_shows_all_sides_over_time_and_the_whole_last_grid(run):
    """Eight sides, each with colour, normals and depth: all eight are followed, and the last grid is shown whole."""
    import base64
    import io

    from PIL import Image

    sides = [f"{45 * k}°" for k in range(8)]
    layout = {"prompts": sides, "rows": ["colour", "normals", "depth"], "columns": 8, "tile": 8}
    shutil.rmtree(run / "samples")
    write(run / "samples" / "layout.json", layout)
    for k in (0, 600, 1200):  # each tile of each grid in a grey of its own
        greys = (torch.arange(24) + 24 * k / 600) / 128 - 1
        save_grid(greys[:, None, None, None].expand(24, 3, 8, 8), run / "samples" / f"iteration-{k:06d}.png", 8)
    data = RunData.read(run)

    def grey(uri):
        return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).getpixel((3, 3))[0]

    film, sheet = filmstrip(data), last_sheet(data)
    assert [name for name, _ in film["rows"]] == sheet["head"] == sides
    assert sheet["iteration"] == "1\u202f200"
    assert [name for name, _ in sheet["rows"]] == ["colour", "normals", "depth"]
    seen = [grey(uri) for _, uris in sheet["rows"] for uri in uris]
    assert seen == sorted(set(seen))  # 24 tiles, in order
    assert [grey(uris[-1]) for _, uris in film["rows"]] == seen[:8]
    assert "sheet" in page_of(run).ids
    last = run / "samples" / "iteration-001200.png"
    last.write_bytes(last.read_bytes()[:40])
    assert last_sheet(RunData.read(run))["iteration"] == "600"
    for broken in ({"prompts": sides[:3]}, {"rows": "colour"}, {"columns": 0}, {"tile": None}):
        write(run / "samples" / "layout.json", layout | broken)
        assert "sheet" not in page_of(run).ids


def test_running_figures_stand_beside_what_was_measured_alike(run):
    text = page_of(run).text
    assert "teacher 0.936" in text  # without such figures the accuracy of the final table serves, and no distance
    assert "teacher 2.04" not in text
    told = json.loads((run / "summary.json").read_text())
    told["running"] = {
        "pictures": 128,
        "real": {"prompt_accuracy": 0.99, "frechet": 1.11},
        "teacher": {"prompt_accuracy": 0.95, "frechet": 3.33},
    }
    write(run / "summary.json", told)
    text = page_of(run).text
    for mark in ("real 0.99", "teacher 0.95", "real 1.11", "teacher 3.33"):
        assert mark in text


def test_a_running_run_gives_a_page_with_a_banner(run):
    for name in ("summary.json", "evaluation"):
        path = run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    lines = (run / "metrics.jsonl").read_text().splitlines()[:37]
    (run / "metrics.jsonl").write_text("\n".join(lines) + '\n{"iteration": 380, "images": 24')
    page = page_of(run)
    assert "unfinished: iteration 370 of 1200" in page.text
    assert {"film", "curves", "config"} <= set(page.ids)
    assert not {"pairs", "final", "speed", "attributes", "worst"} & set(page.ids)


def test_a_summary_older_than_a_resumed_run_does_not_hide_the_banner(run):
    write(run / "config.yaml", "training:\n  iterations: 2000\n")
    assert "unfinished: iteration 1200 of 2000" in page_of(run).text


def test_sparse_logging_does_not_make_a_finished_run_unfinished(run):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join(lines[:-3]))
    assert "unfinished" not in page_of(run).text


def test_an_empty_folder_gives_a_page(tmp_path):
    page = page_of(tmp_path)
    assert "unfinished: iteration 0" in page.text
    assert "There are no logged figures yet." in page.text
    assert "config.yaml is not there." in page.text


def test_broken_files_never_raise(run):
    (run / "metrics.jsonl").write_bytes(b'\xff\xfe\n[1]\n{"iteration": "x"}\n{"iteration": 3, "loss/online": NaN}\n')
    for name in ("samples/layout.json", "evaluation/attributes.json", "environment.json"):
        (run / name).write_text('{"cut": ')
    (run / "evaluation/worst.json").write_text('[{"prompt": null, "said": 3, "confidence": "high"}, 7]')
    picture = run / "evaluation/pairs/0000-teacher.png"
    picture.write_bytes(picture.read_bytes()[:50])
    (run / "evaluation/pairs/0001-student.png").unlink()
    (run / "config.yaml").write_text("training: [\n")
    page = page_of(run)
    assert page.text.count("no picture") == 2 + 2
    assert "film" not in page.ids


@pytest.mark.parametrize("record", [{"teacher": "../secret.png"}, {"teacher": "/etc/hostname"}, {"teacher": "a\0b"}])
def test_only_files_of_the_run_are_read(run, record):
    save_image(drawing("mug", "red", 0, 0), run.parent / "secret.png")
    write(run / "evaluation/pairs.json", [{"prompt": "p", **record}])
    write(run / "evaluation/worst.json", [])
    assert page_of(run).text.count("no picture") == 2


def test_another_task_without_attributes_but_with_fragments(run):
    shutil.rmtree(run / "evaluation")
    shutil.rmtree(run / "samples")
    values = summary(1200, 1200) | {"student": {"steps": 4, "chamfer": 0.0123}, "teacher": {}, "real": {}}
    write(run / "summary.json", values)
    write(run / "report" / "20-scenes.html", "<h2>Second</h2>")
    write(run / "report" / "10-scenes.html", "<h2>First</h2>")
    page = page_of(run)
    assert not {"pairs", "film", "attributes", "worst", "speed"} & set(page.ids)
    assert page.text.index("First") < page.text.index("Second") < page.text.index("Environment")
    assert "chamfer" in page.text
    assert "0.0123" in page.text
    write(run / "summary.json", {"task": "scenes"})
    assert "final" not in page_of(run).ids  # the task's own section holds its figures
    shutil.rmtree(run / "report")
    assert "summary.json holds no figures" in page_of(run).text


@pytest.mark.parametrize(
    ("after", "said"),
    [
        ({"frechet": 4.0, "frechet_interval": [3.9, 4.1]}, "lowered the Fréchet distance from 8 to 4 (0.50"),
        ({"frechet": 9.0, "frechet_interval": [8.9, 9.1]}, "raised the Fréchet distance from 8 to 9"),
        ({"frechet": 7.9, "frechet_interval": [7.0, 8.8]}, "no gain beyond the spread"),
        ({"frechet": 4.0, "frechet_interval": "broken"}, "no gain beyond the spread"),
        ({"frechet": None}, "nothing was measured"),
    ],
)
def test_a_refinement_says_what_it_did(run, after, said):
    before = {"frechet": 8.0, "frechet_interval": [7.9, 8.1], "recall": 0.5}
    write(run / "summary.json", {"task": "gan_refine", "before": before, "after": {"recall": 0.6, **after}})
    pairs = json.loads((run / "evaluation" / "pairs.json").read_text())
    renamed = [{"prompt": p["prompt"], "before": p["teacher"], "after": p["student"]} for p in pairs]
    write(run / "evaluation" / "pairs.json", renamed)
    text = build_report(run).read_text()
    assert said in text
    assert "Left before the refinement" in text
    assert text.count("data:image") > len(renamed)
    assert "after / before" in text


def test_large_pictures_are_reduced(run):
    save_image(torch.rand(3, 700, 500) * 2 - 1, run / "evaluation/pairs/0000-teacher.png")
    text = build_report(run).read_text()
    assert text.count("data:image/jpeg") == 1
    assert len(text) < 6_000_000


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        build_report(tmp_path / "none")


def test_the_old_page_stays_when_the_new_one_cannot_be_written(run, monkeypatch):
    before = build_report(run).read_bytes()
    write(run / "summary.json", summary(100, 1200))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(UserError, match="No space left"):
        build_report(run)
    assert (run / "report.html").read_bytes() == before
    assert not list(run.glob(".report*"))


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_chromium_draws_the_page(run, tmp_path):
    from PIL import Image

    page, shot = build_report(run), tmp_path / "page.png"
    quiet = ("gpu", "quic", "background-networking", "component-update", "sync")
    flags = ["--headless", "--no-sandbox", "--no-first-run", "--hide-scrollbars", "--window-size=1200,1600"]
    flags += [f"--disable-{name}" for name in quiet]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={shot}"]
    subprocess.run(
        ["chromium", *flags, page.as_uri()],
        check=True,
        capture_output=True,
        timeout=100,
    )
    with Image.open(shot) as picture:
        assert picture.size == (1200, 1600)
        assert len(picture.convert("RGB").getcolors(2**24)) > 1000  # pictures, not a blank sheet
