"""The hub itself at the other end: a server that refuses, one that never answers, and what was downloaded before."""

import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from scorefield.errors import UserError
from scorefield.teachers import hub
from scorefield.teachers.auto import adapter_of


@pytest.fixture
def online(monkeypatch, tmp_path):
    """Makes an address the hub, with a cache of its own and no offline switch."""
    import huggingface_hub
    from huggingface_hub import constants

    def at(address: str) -> None:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(
            constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, address),
        )
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        huggingface_hub.close_session()
        hub.reachable.cache_clear()

    yield at
    monkeypatch.undo()
    huggingface_hub.close_session()
    hub.reachable.cache_clear()


@pytest.fixture
def refusing():
    """A hub that answers as the real one does: (status, error code) by repository."""
    answers = {
        "some/gated": (403, "GatedRepo"),
        "some/missing": (401, "RepoNotFound"),
        "some/empty": (404, "EntryNotFound"),
    }

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self):
            name = "/".join(self.path.split("/")[1:3])
            status, code = answers.get(name, (200, ""))
            self.send_response(status)
            if code:
                self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *given):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("some/gated", ["is gated: accept its terms", "hf auth login", "local folder"]),
        ("some/missing", ["no such repository or it is private", "hf auth login", "local folder"]),
        ("some/empty", ["cannot load model_index.json of some/empty"]),
    ],
)
def test_what_the_hub_refuses_is_told_in_one_sentence(name, expected, refusing, online):
    online(refusing)
    with pytest.raises(UserError) as caught:
        adapter_of(name)
    for words in expected:
        assert words in str(caught.value)


def test_a_hub_that_never_answers_is_not_waited_for(online, monkeypatch, tmp_path):
    monkeypatch.setattr(hub, "PATIENCE", 0.3)
    silent = socket.socket()
    silent.bind(("127.0.0.1", 0))
    silent.listen(8)
    online(f"http://127.0.0.1:{silent.getsockname()[1]}")
    start = time.monotonic()
    for name in ("somebody/some-model", "somebody/another"):  # asked once, not for every file
        with pytest.raises(UserError, match="nor a hub repository that can be reached"):
            adapter_of(name)
    assert time.monotonic() - start < 2
    # what was downloaded before is found all the same
    snapshot = tmp_path / "cache" / "models--somebody--kept" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    assert adapter_of("somebody/kept") == "flux"
    silent.close()
