"""A model that takes long to arrive is waited for; one of which nothing comes any more is not."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.server.live import spawn

from kaiwa.server import start_watch
from kaiwa.server.start_watch import StartWatch

#: The program with a model that never comes.
HANGS = """
import sys, threading
from kaiwa.cli import serve
serve.load = lambda settings: threading.Event().wait()
from kaiwa.cli import main
sys.exit(main(["serve", *sys.argv[1:]]))
"""


def test_progress_is_what_counts_and_not_the_time() -> None:
    size, work = [0], [0.0]
    watch = StartWatch(900, 0.0, downloaded=lambda: size[0], worked=lambda: work[0])
    for hour in range(1, 5):
        size[0] += 1
        assert not watch.stuck(3600.0 * hour)
    # All is there, and is read and packed.
    for minute in range(1, 60):
        work[0] += 20
        assert not watch.stuck(14_400.0 + 60 * minute)
    last = 14_400.0 + 60 * 59
    work[0] += 10  # what looking after connections takes
    assert not watch.stuck(last + 900)
    assert watch.stuck(last + 901)


def test_what_was_downloaded_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "absent"))
    assert start_watch.cached_bytes() == 0
    folder = tmp_path / "hub" / "models--a--b" / "blobs"
    folder.mkdir(parents=True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    (folder / "x.incomplete").write_bytes(b"123")
    before = start_watch.cached_bytes()
    (folder / "x.incomplete").write_bytes(b"12345")
    assert start_watch.cached_bytes() - before == 2


def test_a_server_whose_model_never_comes_stops_and_says_so() -> None:
    options = ("--port", 0, "--model", "synth:echo", "--start-seconds", 1)
    process = spawn(*options, script=HANGS)
    try:
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 1
    assert "was not loaded, and nothing of it came for 1 s" in said
    assert "Traceback" not in said
