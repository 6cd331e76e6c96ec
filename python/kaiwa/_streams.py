"""Standard input, pipes and devices where a command wants a file."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from kaiwa.errors import InputError

#: What stands for standard input, or standard output, in place of a file's name.
STANDARD = "-"


def is_stream(path: str | os.PathLike[str]) -> bool:
    """Whether a path is something that can be read only once: standard input, a pipe, a device."""
    if os.fspath(path) == STANDARD:
        return True
    where = Path(path)
    return where.exists() and not where.is_file() and not where.is_dir()


def name_of(path: str | os.PathLike[str]) -> str:
    """What to call a path in a message: `-` in words, and bytes that are no text as question
    marks."""
    if os.fspath(path) == STANDARD:
        return "standard input"
    return os.fspath(path).encode("utf-8", "replace").decode("utf-8")


def opened(path: str | os.PathLike[str]) -> BinaryIO:
    """A file to read and seek in; of a stream a copy.

    Raises:
        OSError: it cannot be opened or read.
    """
    if os.fspath(path) == STANDARD:
        return _copied(_standard_input())
    file = Path(path).open("rb")  # noqa: SIM115, it outlives this function
    if Path(path).is_file():
        return file
    with file:
        return _copied(file)


@contextmanager
def as_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """The path of a file: the given one, or that of a copy of a stream, which is removed after the
    block.

    Raises:
        InputError: the stream cannot be read.
    """
    if not is_stream(path):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory(prefix="kaiwa-") as folder:
        copy = Path(folder) / "input"
        try:
            with opened(path) as source, copy.open("wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
        except OSError as error:
            raise InputError(f"{name_of(path)} cannot be read ({error.strerror})") from None
        yield copy


def send(file: Path) -> None:
    """Writes what is in a file to standard output.

    Raises:
        OSError: it takes nothing more.
    """
    sys.stdout.flush()
    with file.open("rb") as source:
        shutil.copyfileobj(source, sys.stdout.buffer, 1 << 20)
    sys.stdout.buffer.flush()


def check_output() -> None:
    """Refuses to write binary data to a terminal.

    Raises:
        InputError: standard output is one, or is closed.
    """
    if sys.stdout is None or sys.stdout.isatty():
        raise InputError(
            "- is standard output, which is a terminal here; name a file, or send it into a pipe"
        )


def _standard_input() -> BinaryIO:
    if sys.stdin is None:
        raise OSError(0, "standard input is closed")
    return sys.stdin.buffer


def _copied(file: BinaryIO) -> BinaryIO:
    """What a pipe gives, as a file without a name."""
    copy = tempfile.TemporaryFile(prefix="kaiwa-")  # noqa: SIM115, it outlives this function
    try:
        shutil.copyfileobj(file, copy, 1 << 20)
        copy.seek(0)
    except BaseException:
        copy.close()
        raise
    return copy  # type: ignore[return-value,unused-ignore]
