"""Standard input and output, pipes, and names that cannot be printed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from kaiwa import codes_file

from .conftest import Run


@pytest.fixture
def codes(run: Run, small: Path, wav: Path) -> Path:
    path = wav.with_name("voice.codes")
    assert run("encode", wav, path, "--model", small).code == 0
    return path


def piped(data: bytes, *args: object, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """The program with something at its standard input."""
    return subprocess.run(
        [sys.executable, "-m", "kaiwa.cli", *map(str, args)],
        input=data,
        capture_output=True,
        env={**os.environ, **variables},
        timeout=300,
        check=False,
    )


def test_through_a_pipe_and_back(small: Path, wav: Path, codes: Path) -> None:
    encoded = piped(wav.read_bytes(), "encode", "-", "-", "--model", small)
    assert encoded.returncode == 0, encoded.stderr
    assert encoded.stdout == codes.read_bytes()
    decoded = piped(encoded.stdout, "decode", "-", "-", "--model", small)
    assert decoded.returncode == 0, decoded.stderr
    assert decoded.stdout[:4] == b"RIFF"
    assert len(decoded.stdout) > wav.stat().st_size - 100


def test_what_comes_through_a_pipe_is_described(wav: Path, codes: Path) -> None:
    said = piped(codes.read_bytes(), "info", "-").stdout.decode()
    assert "codes" in said.splitlines()[0]
    assert "standard input" in said
    assert "audio" in piped(wav.read_bytes(), "info", "/dev/stdin").stdout.decode().splitlines()[0]


def feeding(path: Path, data: bytes) -> AbstractContextManager[Any]:
    """A named pipe into which somebody writes."""
    os.mkfifo(path)

    class Feeding:
        def __enter__(self) -> None:
            self.thread = threading.Thread(target=path.write_bytes, args=(data,), daemon=True)
            self.thread.start()

        def __exit__(self, *_: object) -> None:
            self.thread.join(10)

    return Feeding()


@pytest.mark.skipif(sys.platform == "win32", reason="named pipes are of POSIX")
def test_named_pipes(run: Run, small: Path, wav: Path, codes: Path, tmp_path: Path) -> None:
    with feeding(tmp_path / "one", wav.read_bytes()):
        out = tmp_path / "out.codes"
        assert run("encode", tmp_path / "one", out, "--model", small).code == 0
    assert out.read_bytes() == codes.read_bytes()
    with feeding(tmp_path / "two", codes.read_bytes()):
        assert run("decode", tmp_path / "two", tmp_path / "out.wav", "--model", small).code == 0
    assert soundfile.info(tmp_path / "out.wav").frames == soundfile.info(wav).frames
    with feeding(tmp_path / "three", codes.read_bytes()):
        assert codes_file.read_info(tmp_path / "three").num_codebooks == 8


@pytest.mark.skipif(sys.platform == "win32", reason="/dev/fd is of POSIX")
def test_a_descriptor_as_shells_give_it(run: Run, small: Path, codes: Path, tmp_path: Path) -> None:
    """`kaiwa decode <(cat voice.codes) OUT` in bash."""
    reader, writer = os.pipe()
    threading.Thread(target=feed, args=(writer, codes.read_bytes()), daemon=True).start()
    try:
        given = f"/dev/fd/{reader}"
        assert run("decode", given, tmp_path / "out.wav", "--model", small).code == 0
    finally:
        os.close(reader)


def feed(handle: int, data: bytes) -> None:
    with os.fdopen(handle, "wb") as file:
        file.write(data)


def test_a_pipe_that_holds_something_else(run: Run, small: Path, tmp_path: Path) -> None:
    done = piped(b"nothing of the kind", "decode", "-", tmp_path / "o.wav", "--model", small)
    assert done.returncode == 2
    assert done.stderr.startswith(b"kaiwa: error: standard input ")
    assert done.stderr.count(b"\n") == 1


def test_weights_do_not_come_through_a_pipe(wav: Path, tmp_path: Path) -> None:
    done = piped(b"x", "encode", wav, tmp_path / "o", "--model", "/dev/stdin")
    assert done.returncode == 2
    assert b"save them to a file first" in done.stderr


def test_standard_output_where_it_cannot_be_written(run: Run, tmp_path: Path) -> None:
    for args in (("synth", "mimi", "-"), ("key", "add", "anna", "--file", "-")):
        outcome = run(*args)
        assert outcome.code == 2
        assert "name a f" in outcome.error
    assert not Path("-").exists()


def test_one_of_two_goes_to_standard_output(run: Run, wav: Path, tmp_path: Path) -> None:
    words = ("--model", "synth:tiny", "--quiet", "--seed", "1")
    outcome = run("run", wav, "-", "--text", "-", *words)
    assert "is also the audio file" in outcome.error
    done = piped(wav.read_bytes(), "run", "-", tmp_path / "o.wav", "--text", "-", *words)
    assert done.returncode == 0, done.stderr
    assert all(line.startswith(b'{"t"') for line in done.stdout.splitlines())
    done = piped(wav.read_bytes(), "run", "-", "-", *words)
    assert done.stdout[44:] == (tmp_path / "o.wav").read_bytes()[44:]


NAMES = ["日本.wav", "na\u00efve \u2028.wav", os.fsdecode(b"caf\xe9.wav")]

#: Commands about files of odd names, all in one process, each with the exit code that is right.
ODD = """
import os, pathlib, shutil, sys
from kaiwa.cli import main
small, wav, codes, *names = sys.argv[1:]
for name in names:
    odd = os.path.join(os.path.dirname(wav), name)
    try:
        shutil.copy(wav, odd)
    except OSError:
        continue
    out = odd + ".codes"
    shutil.copytree(small, odd + ".model")
    for code, *args in (
        (0, "encode", odd, out, "--model", small),
        (0, "decode", out, odd + ".flac", "--model", small),
        (0, "encode", odd, out, "--model", odd + ".model"),
        (0, "info", odd + ".model"),
        (0, "info", out),
        (0, "info", out, "--json"),
        (0, "info", odd),
        (0, "key", "add", "anna", "--file", odd + ".json"),
        (0, "key", "list", "--file", odd + ".json"),
        (2, "info", odd + "x"),
        (2, "decode", odd, odd + ".wav"),
        (2, "encode", out, odd + "y"),
        (2, "key", "list", "--file", out),
        (2, "key", "add", name, "--file", odd + ".json"),
        (2, "run", odd, odd),
        (2, "serve", "--config", odd),
        (2, "convert", odd, out, "--to", "mlx-q8"),
        (2, "plan", "--calls", "1", "--device", "h100", "--measured", odd),
        (2, name),
    ):
        got = main(args)
        assert got == code, (got, args)
"""


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_names_that_cannot_be_printed(encoding: str, small: Path, wav: Path, codes: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ODD, str(small), str(wav), str(codes), *NAMES],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding},
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode("utf-8", "replace")
    assert b"Error" not in done.stderr
    assert b"--debug" not in done.stderr


def test_nothing_is_left_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    done = piped(np.zeros(10).tobytes(), "info", "-", TMPDIR=str(tmp_path))
    assert done.returncode == 2
    assert list(tmp_path.iterdir()) == []
