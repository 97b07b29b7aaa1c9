"""The page's section on assets: whole in one file, and drawn the right way up by a real browser."""

import subprocess

import numpy as np
import pytest
from PIL import Image

from scorefield.errors import UserError
from scorefield.report import build_report
from scorefield.three_d import asset, page, three_js, turntable
from tests.browser import chromium, needs_chromium
from tests.three_d.shapes import Ball

EVIL = 'a <script>alert("x")</script> ball'


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    (folder / "config.yaml").write_text("task: text_to_3d\n")
    config = asset.AssetConfig(resolution=32, faces=1000, texture=128, frames=4, side=64)
    made = asset.make(
        Ball(density=200.0), folder / "export", "particle-0", config, turntable.cameras_round(4, 20.0, 3.0, 35.0, 64)
    )
    files = {kind: str(path.relative_to(folder)) for kind, path in made.pop("files").items()}
    good = {"prompt": EVIL, "particle": 0, **files, **made, "judge_accuracy": 0.8125, "janus_rate": None}
    bad = {"prompt": "a red chair", "particle": 1, "glb": None, "error": "the density field is empty <here>"}
    page.write_section(folder, [good, bad])
    return folder


def test_the_section_is_whole_and_escaped(run):
    text = build_report(run).read_text()
    assert page.encoded(run / "export/particle-0.glb") in text
    assert page.encoded(run / "export/particle-0.mp4") in text
    ours = text.replace(
        three_js.library(), ""
    )  # it names pages in its comments and messages; nothing is fetched: below
    assert len(ours) < len(text)
    assert "http://" not in ours.replace("http://www.w3.org", "")
    assert "https://" not in ours
    assert EVIL not in text
    assert "the density field is empty &lt;here&gt;" in text
    assert "81.2" in text
    assert "Janus" not in text  # a figure that is not there has no row
    (run / "export/particle-0.mp4").rename(run / "film.mp4")
    record = {
        "prompt": "",
        "glb": "export/particle-0.glb",
        "mp4": "export/particle-0.mp4",
        "gif": "export/particle-0.gif",
    }
    assert "data:image/gif" in page.card(run, record)
    (run / "film.mp4").rename(run / "export/particle-0.mp4")


def test_a_trimesh_without_the_viewer_is_told(monkeypatch, tmp_path):
    three_js.library.cache_clear()
    monkeypatch.setattr(three_js, "TEMPLATE", "resources/templates/none.zip")
    with pytest.raises(UserError, match="this trimesh carries no viewer"):
        three_js.library()
    monkeypatch.undo()
    monkeypatch.setattr(three_js, "LAST", "THREE.Nothing")
    with pytest.raises(UserError, match="no GLTFLoader"):
        asset.check_libraries()  # before any training, not when the page is written


def test_the_headline_tells_of_the_assets():
    from scorefield.report.tables import assets

    good = {"prompt": "a red chair", "glb": "export/particle-0.glb", "judge_accuracy": 0.75}
    assert "a red chair" in assets([good])
    assert "an asset; " in assets([good])
    assert "75.0" in assets([good])
    assert "2 assets (1 could not be made); " in assets([good, good, {"prompt": "x", "glb": None}])
    assert assets([{"prompt": "x", "glb": None}]) == "No asset could be made."
    assert "judge" not in assets([{**good, "judge_accuracy": None}])


@needs_chromium
def test_a_drag_turns_the_asset_in_the_report(run, tmp_path):
    """The built page in a real browser: the pointer is pressed on the viewer, moved to the right and back again."""
    with chromium(tmp_path / "profile") as browser:
        browser.open(build_report(run), 1000, 900)
        browser.until("document.querySelector('.asset-viewer').dataset.state === 'shown'")
        browser.value("document.querySelectorAll('video').forEach(film => film.pause())")
        browser.value("document.querySelector('.asset-viewer').scrollIntoView()")
        box = browser.value(
            "(({x, y, width, height}) => [x, y, width, height])"
            "(document.querySelector('.asset-viewer canvas').getBoundingClientRect())"
        )
        middle = box[0] + box[2] / 2, box[1] + box[3] / 2

        def seen(name):
            shot = browser.shot()
            shot.save(tmp_path / f"{name}.png")
            pixels = np.array(shot).astype(int)
            # the middle of the ball's upper and lower half
            places = [(middle[1] + share * box[3], middle[0] + 0.05 * box[2]) for share in (-0.12, 0.22)]
            return pixels, [pixels[round(row), round(column)] for row, column in places]

        first, before = seen("before")
        browser.drag(middle, (middle[0] + 157, middle[1]))  # a quarter turn
        second, after = seen("turned")
        browser.drag(middle, (middle[0] - 157, middle[1]))
        third, _ = seen("back")
        asked, errors = browser.asked, browser.errors
    x, y, width, height = (round(value) for value in box)
    inside = (slice(y, y + height), slice(x, x + width))
    # azimuth 0.6 at first: x > 0 and y < 0 lie nearest; then -0.97: x < 0 and y < 0. Red tells of x, blue of z
    assert np.abs(np.array(before) - [[230, 51, 230], [230, 51, 51]]).max() < 12
    assert np.abs(np.array(after) - [[51, 51, 230], [51, 51, 51]]).max() < 12
    assert (np.abs(first - second).max(-1)[inside] > 60).mean() > 0.2
    assert np.abs(first - third)[inside].mean() < 1
    outside = np.ones(first.shape[:2], bool)
    outside[inside] = False
    assert (np.abs(first - second).max(-1)[outside] > 20).mean() < 0.001  # nothing else moved
    assert errors == []
    assert [address for address in asked if not address.startswith(("file:", "data:", "blob:"))] == []


@needs_chromium
def test_chromium_draws_the_asset_the_right_way_up(run, tmp_path):
    # a page with the viewer alone, full width, so that pixels of the shot are pixels of the canvas
    record = {"prompt": "ball", "glb": "export/particle-0.glb"}
    canvas = page.card(run, record).replace("<canvas", "<canvas style='width:300px;height:300px'")
    text = f"<body style='margin:0;background:#fff'><style>h3{{display:none}}</style>{canvas}"
    text += "<script>const old=matchMedia;matchMedia=(q)=>q.includes('motion')?{matches:true}:old(q)</script>"
    (tmp_path / "page.html").write_text(f"{text}{page.viewer_script()}</body>")
    shot = tmp_path / "page.png"
    flags = ["--headless", "--no-sandbox", "--no-first-run", "--hide-scrollbars", "--window-size=300,400"]
    flags += ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--virtual-time-budget=3000"]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={shot}"]
    subprocess.run(
        ["chromium", *flags, (tmp_path / "page.html").as_uri()], check=True, capture_output=True, timeout=100
    )
    with Image.open(shot) as picture:
        pixels = np.array(picture.convert("RGB")).astype(int)
    # azimuth 0.6 rad, a little above: in the middle lie x > 0 on the right, y < 0 nearest, z > 0 above
    upper, lower = pixels[110, 170], pixels[215, 170]
    assert np.abs(upper - [230, 51, 230]).max() < 12  # x > 0, y < 0, z > 0
    assert np.abs(lower - [230, 51, 51]).max() < 12  # x > 0, y < 0, z < 0
    assert (pixels[20, 20] > 235).all()
