"""A headless Chromium that a test opens pages in, moves the pointer of and takes pictures of; nothing but the stdlib.

It is spoken to through two pipes (``--remote-debugging-pipe``): JSON messages with a zero byte between them.
"""

import base64
import io
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

FLAGS = ["--headless", "--no-sandbox", "--no-first-run", "--hide-scrollbars", "--remote-debugging-pipe"]
FLAGS += ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--force-prefers-reduced-motion"]
FLAGS += [f"--disable-{name}" for name in ("quic", "background-networking", "component-update", "sync")]
PATIENCE = 90.0  # seconds

needs_chromium = pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")


class Page:
    """One page of the browser; ``errors`` holds what its scripts threw or wrote to the console as errors."""

    def __init__(self, read: int, write: int):
        self.read, self.write, self.number, self.rest = read, write, 0, b""
        self.session: str | None = None
        self.errors: list[str] = []
        self.asked: list[str] = []  # addresses that the page fetched
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **given: Any) -> dict[str, Any]:
        """Ask the browser and wait for its answer."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": given}
        message |= {"sessionId": self.session} if self.session else {}
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.next()
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def next(self) -> dict[str, Any]:
        """The next message of the browser."""
        end = time.monotonic() + PATIENCE
        while b"\0" not in self.rest:
            if not select.select([self.read], [], [], max(0, end - time.monotonic()))[0]:
                raise TimeoutError("the browser does not answer")
            part = os.read(self.read, 1 << 20)
            if not part:
                raise RuntimeError("the browser has gone")
            self.rest += part
        text, _, self.rest = self.rest.partition(b"\0")
        message = json.loads(text)
        given = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            self.errors.append(given["exceptionDetails"].get("exception", {}).get("description", "an exception"))
        elif message.get("method") == "Runtime.consoleAPICalled" and given["type"] == "error":
            self.errors.append(str(given["args"]))
        elif message.get("method") == "Network.requestWillBeSent":
            self.asked.append(given["request"]["url"])
        return message

    def open(self, path: Path, width: int, height: int) -> None:
        """Show a file in a window of that size and wait until it is loaded."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Page.navigate", url=path.as_uri())
        self.until("document.readyState === 'complete'")

    def value(self, script: str) -> Any:
        """What a script evaluates to, once its promise has come true."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def until(self, script: str) -> None:
        """Wait until a script evaluates to true."""
        end = time.monotonic() + PATIENCE
        while not self.value(script):
            if time.monotonic() > end:
                raise TimeoutError(f"never true: {script}")
            time.sleep(0.05)

    def drag(self, start: tuple[float, float], end: tuple[float, float], steps: int = 5) -> None:
        """Press, move and release the pointer, in pixels of the window."""
        self.pointer("mouseMoved", start)
        self.pointer("mousePressed", start, button="left", buttons=1, clickCount=1)
        for k in range(1, steps + 1):
            place = tuple(a + (b - a) * k / steps for a, b in zip(start, end, strict=True))
            self.pointer("mouseMoved", place, button="left", buttons=1)
        self.pointer("mouseReleased", end, button="left", clickCount=1)

    def pointer(self, kind: str, place: tuple[float, ...], **more: Any) -> None:
        self.call("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], **more)

    def shot(self) -> Image.Image:
        """The window as a picture, once what was drawn last is on it."""
        self.value("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")
        data = self.call("Page.captureScreenshot", format="png")["data"]
        return Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")


@contextmanager
def chromium(profile: Path) -> Iterator[Page]:
    """A page of a fresh browser, which ends with the block."""
    to_browser, ours = os.pipe()
    mine, from_browser = os.pipe()

    def place() -> None:  # the browser reads at 3 and writes at 4
        spare = [os.dup2(end, 60 + k) for k, end in enumerate((to_browser, from_browser))]
        for number, end in zip((3, 4), spare, strict=True):
            os.dup2(end, number)

    browser = subprocess.Popen(
        ["chromium", *FLAGS, f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=place,
        close_fds=False,
    )
    os.close(to_browser)
    os.close(from_browser)
    try:
        yield Page(mine, ours)
    finally:
        os.close(ours)
        browser.terminate()
        try:
            browser.wait(20)
        except subprocess.TimeoutExpired:
            browser.kill()
        os.close(mine)
