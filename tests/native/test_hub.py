"""Repositories, through the real download library and a small Hub on this machine."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"

#: Answers to requests for repositories that cannot be read: status and error code.
REFUSALS = {
    "org/gated": (403, "GatedRepo"),
    "org/none": (404, "RepoNotFound"),
}


class Hub(http.server.ThreadingHTTPServer):
    """Serves folders as repositories and remembers what was asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.asked: list[str] = []
        self.refuse_all = False
        #: Of every branch.
        self.commit = COMMIT

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    """The two kinds of requests that are made: a file, and the list of files."""

    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *args: object) -> None:
        """Keeps the test's output clean."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(path)
        if self.server.refuse_all:
            self.close_connection = True
            return None
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        tree = re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", path)
        match = file or tree
        repo, revision = (match[1], match[2]) if match else ("", "")
        if repo in REFUSALS:
            return self.reply(*REFUSALS[repo])
        if repo not in self.server.repos:
            return self.reply(404, "RepoNotFound")
        if revision not in ("main", self.server.commit):
            return self.reply(404, "RevisionNotFound")
        files = self.server.repos[repo]
        if tree:
            entries = [
                {"type": "file", "path": n, "size": len(b), "oid": digest(b)}
                for n, b in files.items()
            ]
            return self.reply(200, "", json.dumps(entries).encode(), "application/json")
        assert file is not None
        if file[3] not in files:
            return self.reply(404, "EntryNotFound")
        return self.reply(200, "", files[file[3]])

    def reply(
        self, status: int, code: str, body: bytes = b"", kind: str = "application/octet-stream"
    ) -> None:
        self.send_response(status)
        self.send_header("X-Repo-Commit", self.server.commit)
        self.send_header("ETag", f'"{digest(body)}"')
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if code:
            self.send_header("X-Error-Code", code)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def digest(body: bytes) -> str:
    return hashlib.sha1(body).hexdigest()


@pytest.fixture
def hub(mimi_small: Path) -> Iterator[Hub]:
    server = Hub()
    config = json.loads((mimi_small / "config.json").read_text())
    weights = (mimi_small / "mimi.safetensors").read_bytes()
    both = {"config.json": json.dumps(config).encode()}
    server.repos = {
        "org/mimi": {**both, "model.safetensors": weights},
        "org/lone": {**both, "odd-name.safetensors": weights, "README.md": b"hello"},
        "org/two": {**both, "a.safetensors": weights, "b.safetensors": weights},
        "org/lm": {
            "config.json": json.dumps(
                {"mimi_name": "codec.safetensors", "mimi_config_name": "codec.json"}
            ).encode(),
            "codec.json": json.dumps(config).encode(),
            "codec.safetensors": weights,
            "model.safetensors": b"the language model",
        },
        "org/elsewhere": {
            "config.json": json.dumps({"mimi_name": "hf://org/mimi/model.safetensors"}).encode()
        },
    }
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


SCRIPT = """
import json, sys, warnings
import kaiwa
options = json.loads(sys.argv[2])
try:
    with warnings.catch_warnings(record=True) as warned:
        mimi = kaiwa.Mimi.from_pretrained(sys.argv[1], **options)
    said = [str(found.message) for found in warned if found.category is UserWarning]
    print(json.dumps(["loaded", str(mimi.cardinality), *said]))
except kaiwa.KaiwaError as error:
    print(json.dumps([type(error).__name__, str(error)]))
"""


def load(
    hub: Hub,
    cache: Path,
    repo: str,
    *,
    offline: bool = False,
    read_only: bool = False,
    **options: Any,
) -> list[str]:
    """What loading gives in a process of its own: `loaded` or the error, and a text, and what was
    warned of."""
    # To root a folder without permission to write is like any other; a mount is not.
    mount = f"mount --bind {cache} {cache} && mount -o remount,ro,bind {cache} && "
    locked = ["unshare", "--mount", "sh", "-c", mount + 'exec "$@"', "sh"] if read_only else []
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    environment |= {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(cache / "home"),
        "HF_HUB_OFFLINE": str(int(offline)),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    options = {"cache_dir": str(cache), **options}
    done = subprocess.run(
        [*locked, sys.executable, "-c", SCRIPT, repo, json.dumps(options)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    answer: list[str] = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize("repo", ["org/mimi", "org/lone", "org/lm"])
def test_a_repository_loads_and_loads_again_offline(hub: Hub, tmp_path: Path, repo: str) -> None:
    assert load(hub, tmp_path, repo) == ["loaded", "64"]
    hub.asked.clear()
    assert load(hub, tmp_path, repo, offline=True) == ["loaded", "64"]
    assert not hub.asked, "offline means offline"
    kind, text = load(hub, tmp_path / "other", repo, offline=True)
    assert kind == "DownloadError"
    assert "local copy" in text


def test_options_reach_the_hub(hub: Hub, tmp_path: Path) -> None:
    assert load(hub, tmp_path, "org/mimi", revision=COMMIT) == ["loaded", "64"]
    assert f"/org/mimi/resolve/{COMMIT}/model.safetensors" in hub.asked
    kind, text = load(hub, tmp_path, "org/mimi", config={"seanet": {"n_filters": 8}})
    assert kind == "CheckpointError"
    assert "config" in text


REFUSED = [
    ("org/gated", {}, "DownloadError", "HF_TOKEN"),
    ("org/none", {}, "DownloadError", "spelling"),
    ("org/mimi", {"revision": "v9"}, "DownloadError", "no revision 'v9'"),
    ("org/two", {}, "CheckpointNotFoundError", "no codec weights"),
    # The codec named elsewhere has another configuration than the released one.
    ("org/elsewhere", {}, "CheckpointError", "config"),
    ("org/bad..name", {}, "DownloadError", "not a repository id"),
    # None of these is asked for over the network.
    ("org/mimi/model.safetensors", {}, "CheckpointNotFoundError", "does not exist"),
    ("./org/mimi", {}, "CheckpointNotFoundError", "does not exist"),
    ("org/mimi.safetensors", {}, "CheckpointNotFoundError", "does not exist"),
]


@pytest.mark.parametrize(("repo", "options", "kind", "word"), REFUSED)
def test_refusals(
    hub: Hub, tmp_path: Path, repo: str, options: dict[str, Any], kind: str, word: str
) -> None:
    got, text = load(hub, tmp_path, repo, **options)
    assert (got, word in text) == (kind, True), text
    assert "\n" not in text
    assert ("does not exist" in text) == (not hub.asked) or "not a repository" in text


def test_no_hub_is_explained_after_one_try(hub: Hub, tmp_path: Path) -> None:
    hub.refuse_all = True
    kind, text = load(hub, tmp_path, "org/mimi")
    assert (kind, "\n" in text) == ("DownloadError", False)
    assert "check the network" in text
    files = {path for path in hub.asked if "/resolve/" in path}
    assert files == {"/org/mimi/resolve/main/config.json"}, "the library retries for long"


def can_mount() -> bool:
    """Whether this process may mount folders, in a place of its own."""
    if shutil.which("unshare") is None:
        return False
    done = subprocess.run(
        ["unshare", "--mount", "mount", "--bind", "/tmp", "/tmp"], capture_output=True, check=False
    )
    return done.returncode == 0


@pytest.mark.skipif(not can_mount(), reason="nothing may be mounted here")
@pytest.mark.parametrize("repo", ["org/mimi", "org/lone", "org/lm"])
def test_a_cache_that_cannot_be_written_is_used(hub: Hub, tmp_path: Path, repo: str) -> None:
    assert load(hub, tmp_path, repo) == ["loaded", "64"]
    # The branch moves: the library wants to write the new revision down.
    hub.commit = COMMIT[::-1]
    for files in hub.repos.values():
        files["config.json"] += b" "
    kind, text, *warned = load(hub, tmp_path, repo, read_only=True)
    assert (kind, text) == ("loaded", "64")
    (line,) = warned
    assert "cannot be written (Read-only file system)" in line
    assert COMMIT[:12] in line
    assert "\n" not in line
    kind, text = load(hub, tmp_path, "org/two", read_only=True)
    assert kind == "DownloadError"
    assert "cannot be written" in text
    assert "check the network" not in text
