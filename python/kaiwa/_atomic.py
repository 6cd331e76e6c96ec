"""Writing files so that they appear complete or not at all."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kaiwa import _streams
from kaiwa.errors import InputError


@contextmanager
def replacing(
    target: str | os.PathLike[str],
    *,
    reading: str | os.PathLike[str] | None = None,
    streamed: str | None = None,
) -> Iterator[Path]:
    """Gives the path of a temporary file beside `target`, renamed onto it if the block succeeds.

    The temporary name keeps the ending of `target`, so that writers which choose a format by it
    work. When the block fails, or is interrupted, the temporary file is removed and whatever was
    at `target` stays as it was. A link is followed, not replaced. `reading` is the input, which
    must be another file.

    Args:
        target: where the file is to be.
        reading: the input.
        streamed: whoever asks can also write to standard output, for which `-` stands: the ending
            of the temporary file for that.

    Raises:
        InputError: the folder does not exist, `target` is not a regular file or is the input, or it
            cannot be written to.
    """
    if os.fspath(target) == _streams.STANDARD:
        with _sent(streamed) as temporary:
            yield temporary
        return
    final = Path(os.path.realpath(target))
    if final.is_dir():
        raise InputError(f"{final} is a folder; name a file to write to")
    if final.exists() and not final.is_file():
        raise InputError(f"{target} is a device or pipe; name a regular file to write to")
    if reading is not None and os.fspath(reading) == _streams.STANDARD:
        reading = None
    both_exist = reading is not None and final.exists() and Path(reading).exists()
    if reading is not None and both_exist and final.samefile(reading):
        raise InputError(f"{target} is also the input; name another file to write to")
    folder = final.parent
    if not folder.is_dir():
        raise InputError(f"the folder {folder} of {final} does not exist; create it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"no permission to write in the folder {folder}; choose another place")
    suffix = final.suffix
    temporary = folder / f".{final.stem[:40]}.{secrets.token_hex(6)}.part{suffix}"
    try:
        yield temporary
        temporary.replace(final)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _sent(ending: str | None) -> Iterator[Path]:
    """A temporary file that goes to standard output if the block succeeds."""
    if ending is None:
        raise InputError("- is standard output, which cannot be written here; name a file")
    _streams.check_output()
    with tempfile.TemporaryDirectory(prefix="kaiwa-") as folder:
        temporary = Path(folder) / f"output{ending}"
        yield temporary
        _streams.send(temporary)
