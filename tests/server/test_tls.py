"""`--ssl-cert` and `--ssl-key`: calls and pages over TLS."""

from __future__ import annotations

import os
import re
import shutil
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tests.server.live import spawn
from tests.server.wire import tone

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="makes its certificate with the program openssl"
)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of this machine that vouches for itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    options = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run(
        ["openssl", *options.split(), "-keyout", key, "-out", cert, *subject],
        check=True,
        capture_output=True,
    )
    return cert, key


@pytest.fixture
def port(pair: tuple[Path, Path]) -> Iterator[int]:
    cert, key = pair
    process = spawn("--port", 0, "--model", "synth:echo", "--ssl-cert", cert, "--ssl-key", key)
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.search(r"https://127\.0\.0\.1:(\d+) ", line)
        assert found, line
        yield int(found[1])
    finally:
        process.kill()
        process.communicate()


def client(port: int, folder: Path, trusted: Path | None) -> subprocess.CompletedProcess[str]:
    """`kaiwa client` with a file of a second."""
    soundfile.write(folder / "in.wav", tone(12), 24_000)
    variables = {"SSL_CERT_FILE": str(trusted)} if trusted else {}
    return subprocess.run(
        [
            *(sys.executable, "-m", "kaiwa.cli", "client", "--quiet"),
            *("--in", folder / "in.wav", "--out", folder / "out.wav"),
            f"https://localhost:{port}",
        ],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_call_and_the_page(pair: tuple[Path, Path], port: int, tmp_path: Path) -> None:
    done = client(port, tmp_path, pair[0])
    assert done.returncode == 0, done.stderr
    heard, _ = soundfile.read(tmp_path / "out.wav", dtype="float32")
    assert len(heard) == 12 * 1920
    assert np.sqrt(np.mean(heard**2)) > 0.1
    trust = ssl.create_default_context(cafile=pair[0])
    with urllib.request.urlopen(f"https://localhost:{port}/", context=trust) as answer:
        assert b"<html" in answer.read()


def test_a_certificate_that_nobody_vouches_for(port: int, tmp_path: Path) -> None:
    done = client(port, tmp_path, None)
    assert done.returncode == 1
    assert "check the certificate" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("wrong", ["missing", "no key", "not pem", "other key"])
def test_files_that_do_not_do(wrong: str, pair: tuple[Path, Path], tmp_path: Path) -> None:
    cert, key = map(str, pair)
    nonsense = tmp_path / "x.pem"
    nonsense.write_text("nothing")
    options = {
        "missing": ("--ssl-cert", "absent.pem", "--ssl-key", key),
        "no key": ("--ssl-cert", cert),
        "not pem": ("--ssl-cert", nonsense, "--ssl-key", key),
        "other key": ("--ssl-cert", cert, "--ssl-key", cert),
    }[wrong]
    process = spawn("--port", 0, "--model", "synth:echo", *options)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 2, said
    assert said.startswith("kaiwa: error: ")
    assert said.count("\n") == 1, said
    assert "ssl" in said or "PEM" in said
