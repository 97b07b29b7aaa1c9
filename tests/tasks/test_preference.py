"""The blind page, from a run to a scored file: clicked through by a real browser."""

import json
import re
import shutil
import subprocess

import pytest

from scorefield.cli import main
from scorefield.preference.votes import token

# the answers to give, and the file that the page offers, put where the browser prints it
CLICKS = """
<script>
const files = [];
const make = URL.createObjectURL;
URL.createObjectURL = (blob) => { files.push(blob.text()); return make.call(URL, blob); };
const press = (key) => document.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
const prompts = [$("prompt").textContent];
$("left").click();                       // 1: by a click on the picture
prompts.push($("prompt").textContent);
press("ArrowRight");                     // 2: by a key
prompts.push($("prompt").textContent);
press("ArrowLeft");                      // 3: and back again
$("back").click();
prompts.push($("prompt").textContent);
press("ArrowDown");                      // 3: no preference
$("choose-right").click();               // 4
press("ArrowLeft");                      // nothing is left to be asked
$("rater").value = "Ann B.";
$("save").click();
files[0].then((text) => {
  const told = { text, prompts, name: $("saved").textContent, heading: $("prompt").textContent };
  document.body.innerHTML = "<pre>" + btoa(unescape(encodeURIComponent(JSON.stringify(told)))) + "</pre>";
});
</script>"""


def chromium(tmp_path, page, *flags: str) -> str:
    told = ["--headless", "--no-sandbox", "--no-first-run", "--disable-gpu", "--virtual-time-budget=2000"]
    told += [f"--user-data-dir={tmp_path / 'profile'}", *flags, page.as_uri()]
    return subprocess.run(["chromium", *told], check=True, capture_output=True, text=True, timeout=100).stdout


def data_of(page) -> dict:
    return json.loads(re.search(r"const data = (.*);\n", page.read_text())[1].replace("<\\/", "</"))


def test_the_page_is_blind_whole_and_drawn_anew_by_the_seed(run, tmp_path):
    prompts = json.loads((run / "evaluation/pairs.json").read_text())
    prompts[0]["prompt"] = evil = 'a </script><script>alert("x")</script> thing'
    (run / "evaluation/pairs.json").write_text(json.dumps(prompts))
    pages = []
    for seed in range(6):
        pages.append(tmp_path / f"{seed}.html")
        assert main(["preference", str(run), "--seed", str(seed), "--out", str(pages[-1])]) == 0
    text, data = pages[0].read_text(), data_of(pages[0])
    assert "http" not in text.replace("http-equiv", "")
    assert "src=" not in text.replace("src = ", "")
    assert evil not in text
    assert str(run) not in text
    assert sorted(pair["pair"] for pair in data["pairs"]) == [0, 1, 2, 3]
    for pair in data["pairs"]:
        known = {token(data["page"], pair["pair"], who): who for who in ("student", "teacher")}
        assert {pair["left"]["token"], pair["right"]["token"]} == set(known)
        assert pair["prompt"] == prompts[pair["pair"]]["prompt"]
        assert set(pair["left"]) == {"token", "image"}
    left = [known_left(data_of(page)) for page in pages]
    assert 4 < sum(map(sum, left)) < 20  # of 24: both sides, in different orders
    assert len({tuple(pair["pair"] for pair in data_of(page)["pairs"]) for page in pages}) > 1
    again = tmp_path / "again.html"
    assert main(["preference", str(run), "--out", str(again)]) == 0
    assert again.read_text() == text


def known_left(data: dict) -> list[bool]:
    """Whether the student stands on the left, pair by pair."""
    return [pair["left"]["token"] == token(data["page"], pair["pair"], "student") for pair in data["pairs"]]


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_a_browser_clicks_through_and_the_answers_are_scored(run, tmp_path, capsys):
    import base64

    assert main(["preference", str(run), "--seed", "3"]) == 0
    page = run / "preference" / "teacher.html"
    data = data_of(page)
    clicked = tmp_path / "clicked.html"
    clicked.write_text(page.read_text().replace("</body>", CLICKS + "</body>"))
    told = json.loads(base64.b64decode(re.search(r"<pre>(.*)</pre>", chromium(tmp_path, clicked, "--dump-dom"))[1]))
    asked = [pair["prompt"] for pair in data["pairs"]]
    assert told["prompts"] == [asked[0], asked[1], asked[2], asked[2]]
    assert told["heading"].startswith("Thank you")
    assert f"4 answers saved as preference-{data['page']}-Ann-B.json" in told["name"]
    results = json.loads(told["text"])
    assert [vote["choice"] for vote in results["votes"]] == ["left", "right", "tie", "right"]
    assert [vote["pair"] for vote in results["votes"]] == [pair["pair"] for pair in data["pairs"]]
    assert results["rater"] == "Ann B."
    (tmp_path / "ann.json").write_text(told["text"])
    left = known_left(data)
    wins = left[0] + (not left[1]) + (not left[3])
    capsys.readouterr()
    assert main(["preference", "--score", str(tmp_path / "ann.json")]) == 0
    assert f"{wins} wins, {3 - wins} losses, 1 times no preference; 1 person, 3 pairs" in capsys.readouterr().out
    assert main(["preference", str(run), "--score", str(tmp_path / "ann.json")]) == 0
    found = json.loads((run / "summary.json").read_text())["preference"]["teacher"]
    assert (found["wins"], found["losses"], found["ties"]) == (wins, 3 - wins, 1)
    assert found["players"] == ["student", "teacher"]


def test_more_pairs_are_drawn_as_the_first_ones_were(run, capsys):
    assert main(["preference", str(run), "--pairs", "6", "--device", "cpu"]) == 0
    more = json.loads((run / "evaluation/more.json").read_text())
    kept = json.loads((run / "evaluation/pairs.json").read_text())
    assert len(more) == len(data_of(run / "preference/teacher.html")["pairs"]) == 6
    for before, after in zip(kept, more, strict=False):
        assert before["prompt"] == after["prompt"]
        for who in ("teacher", "student"):
            assert (run / before[who]).read_bytes() == (run / after[who]).read_bytes()
    assert main(["preference", str(run), "--against", "turbo"]) == 2
    assert 'no pictures of "turbo" were kept' in capsys.readouterr().err
    assert main(["preference"]) == 2
    assert "name a run" in capsys.readouterr().err
