"""SIGHUP: a new certificate and new keys count, calls go on, damaged files change nothing."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.server.live import program, spawn, wait_until
from tests.server.wire import call, pcm16, tone

from kaiwa.server import key_edits

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGHUP")


def make_pair(folder: Path, name: str) -> None:
    """Puts a certificate for a name, and its key, at the places that the server was told."""
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    places = [
        "-subj",
        f"/CN={name}",
        "-keyout",
        str(folder / "key.pem"),
        "-out",
        str(folder / "cert.pem"),
    ]
    subprocess.run(["openssl", *words.split(), *places], check=True, capture_output=True)


class Served:
    """A server that speaks TLS, with keys, as a program; and what it logs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        make_pair(folder, "first")
        _, self.key = key_edits.add(folder / "keys.json", "first", time.time())
        self.process = spawn(
            *("--port", 0, "--model", "synth:echo", "--keys", folder / "keys.json"),
            *("--ssl-cert", folder / "cert.pem", "--ssl-key", folder / "key.pem"),
        )
        assert self.process.stderr is not None
        found = re.search(r"https://127\.0\.0\.1:(\d+) ", self.process.stderr.readline())
        assert found
        self.port = int(found[1])

    def certificate(self) -> str:
        """What a new connection is shown."""
        return ssl.get_server_certificate(("127.0.0.1", self.port), timeout=10)

    def hang_up(self) -> None:
        self.process.send_signal(signal.SIGHUP)

    def logged(self, words: str) -> None:
        """Waits for a line of the log."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if words in line:
                return
        raise AssertionError(f"it ended without saying {words!r}")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    if shutil.which("openssl") is None:
        pytest.skip("makes its certificate with the program openssl")
    made = Served(tmp_path)
    try:
        made.logged("ready")
        yield made
    finally:
        made.process.kill()
        made.process.communicate()


async def test_a_call_goes_on_and_new_connections_see_the_new_certificate(served: Served) -> None:
    context = ssl._create_unverified_context()
    url = f"wss://127.0.0.1:{served.port}/api/chat?format=pcm"

    def headers(key: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {key}"}

    first = await asyncio.to_thread(served.certificate)
    async with call(url, ssl=context, additional_headers=headers(served.key)) as going:
        await going.say(pcm16(tone(1)))
        await going.frames(1)
        make_pair(served.folder, "second")
        _, other = key_edits.add(served.folder / "keys.json", "second", time.time())
        served.hang_up()
        await asyncio.to_thread(served.logged, "the certificate was read again")
        second = await asyncio.to_thread(served.certificate)
        assert second != first
        assert second == (served.folder / "cert.pem").read_text()
        await going.say(pcm16(tone(1)))
        await going.frames(1)
        async with call(url, ssl=context, additional_headers=headers(other)) as new:
            await new.say(pcm16(tone(1)))
            await new.frames(1)
    assert served.process.poll() is None


async def test_what_is_damaged_changes_nothing(served: Served) -> None:
    first = await asyncio.to_thread(served.certificate)
    other = served.folder / "other"
    other.mkdir()
    make_pair(other, "second")
    # The new certificate with the old key.
    shutil.copy(other / "cert.pem", served.folder / "cert.pem")
    served.hang_up()
    await asyncio.to_thread(served.logged, "the former one stays")
    assert await asyncio.to_thread(served.certificate) == first
    (served.folder / "cert.pem").unlink()
    served.hang_up()
    await asyncio.to_thread(served.logged, "the former one stays")
    assert await asyncio.to_thread(served.certificate) == first


async def test_without_tls_and_keys_nothing_happens() -> None:
    with program("--model", "synth:echo") as served:
        async with call(served.url(format="pcm")) as going:
            served.signal(signal.SIGHUP)
            await going.say(pcm16(tone(3)))
            await going.frames(3)
        served.signal()
        assert served.ended()[0] == 0


def test_a_server_whose_terminal_is_gone_stops() -> None:
    """The terminal's end is told by the same signal, and nobody could stop the server any more."""
    import fcntl
    import pty
    import termios

    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "kaiwa.cli", "serve", "--port", "0", "--model", "synth:echo"],
        stdin=slave,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    try:
        os.close(slave)
        assert process.stderr is not None
        for line in process.stderr:
            if " ready" in line:
                break
        os.close(master)
        wait_until(lambda: process.poll() is not None, "it stops", 20)
        assert process.returncode == 0
    finally:
        process.kill()
        process.communicate()
