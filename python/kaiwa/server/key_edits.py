"""Changes to a file of keys. A lock makes programs that change it at once wait for each other."""

from __future__ import annotations

import errno
import os
import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from io import FileIO
from pathlib import Path
from typing import Any

from kaiwa._atomic import replacing
from kaiwa.errors import InputError
from kaiwa.server import key_entry, key_format
from kaiwa.server.key_entry import Key
from kaiwa.server.keys import read

if sys.platform != "win32":
    import fcntl

_OWNER_ONLY = 0o600
_GROUP_MAY_READ = 0o040


def add(path: str | os.PathLike[str], name: str, now: float, **limits: Any) -> tuple[Key, str]:
    """Makes a key and writes it to the file, which is made if there is none.

    Args:
        path: the file.
        name: who the key is for: letters, digits, `.`, `_`, `-`.
        now: seconds since 1970.
        **limits: `concurrency`, `per_minute`, `max_seconds`, `operator`, `protocols`, `models` as
            in `Key`; `expires`, seconds since 1970.

    Returns:
        The entry, and the key itself, which is kept nowhere.

    Raises:
        InputError: the name is taken or not allowed, a limit is wrong, or the file is damaged or
            cannot be written.
    """
    if not key_entry.is_name(name):
        raise InputError(
            f"{name!r} is no name of a key; use 1 to 64 letters, digits, '.', '_' or '-', "
            "beginning with a letter or digit"
        )
    expires = limits.pop("expires", None)
    if expires is not None and expires <= now:
        raise InputError(f"the key {name} would have expired already; give a time that is to come")
    secret = key_entry.new_secret()
    made = Key(
        id=secrets.token_hex(8),
        name=name,
        hash=key_entry.hash_of(secret),
        created=key_entry.moment(now),
        expires=None if expires is None else key_entry.moment(expires),
        **limits,
    )
    try:
        key_entry.from_json(key_entry.to_json(made))
    except ValueError as error:
        raise InputError(f"the key {name} {error}; give a positive number") from None
    file = Path(path)
    with _locked(file):
        keys = read(file) if file.exists() else ()
        if any(key.name == name and key.revoked is None for key in keys):
            raise InputError(
                f"{file} has a key named {name} already; choose another name, or revoke that one "
                f"with `kaiwa key revoke {name} --file {file}`"
            )
        _write(file, [*keys, made])
    return made, secret


def revoke(path: str | os.PathLike[str], name: str, now: float) -> Key:
    """Marks the key of a name as revoked; it stays in the file.

    Raises:
        InputError: no key that counts has the name, or the file is damaged or cannot be written.
    """
    file = Path(path)
    with _locked(file):
        keys = list(read(file))
        for place, key in enumerate(keys):
            if key.name == name and key.revoked is None:
                keys[place] = replace(key, revoked=key_entry.moment(now))
                _write(file, keys)
                return keys[place]
    if any(key.name == name for key in keys):
        raise InputError(f"the key {name} in {file} is revoked already; there is nothing to do")
    raise InputError(f"{file} has no key named {name}; see `kaiwa key list --file {file}`")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds a lock beside the file, so that two changes do not overwrite each other. Where nothing
    can be written beside it (a file mounted by itself), the file's own folder is of one program."""
    real = Path(os.path.realpath(path))
    if sys.platform == "win32" or not real.parent.is_dir():
        yield  # the writer reports a missing folder
        return
    try:
        lock = os.open(real.with_name(f".{real.name}.lock"), os.O_RDWR | os.O_CREAT, _OWNER_ONLY)
    except OSError as error:
        if real.exists() and os.access(real, os.W_OK):
            yield
            return
        reason = error.strerror or error
        raise InputError(
            f"no permission to write beside {path} ({reason}); choose another place"
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _write(path: Path, keys: Sequence[Key]) -> None:
    """Makes the file, or writes over what is in it.

    A file that is there is not replaced by another one: whoever has it mounted or open would go on
    with the former keys, and a revoked one would count for ever.
    """
    data = key_format.encode(keys)
    if path.exists():
        _overwrite(path, data)
        return
    with replacing(path) as temporary:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _OWNER_ONLY)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


def _overwrite(path: Path, data: bytes) -> None:
    """Writes over a file while nobody reads it. If that fails, it is as it was."""
    try:
        with path.open("r+b", buffering=0) as file:
            if sys.platform != "win32":
                with suppress(OSError):  # a file system without locks
                    fcntl.flock(file, fcntl.LOCK_EX)
            former = file.read()
            if sys.platform != "win32":
                with suppress(PermissionError):
                    # Its group may go on reading it; nobody else may, and nobody else may write.
                    mode = os.fstat(file.fileno()).st_mode
                    os.fchmod(file.fileno(), _OWNER_ONLY | (mode & _GROUP_MAY_READ))
            try:
                _fill(file, data)
            except OSError:
                with suppress(OSError):
                    _fill(file, former)
                raise
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror or error}), and stays as it was; make room "
            "or give permission, and try again"
        ) from None


def _fill(file: FileIO, data: bytes) -> None:
    """Makes this the content of a file."""
    _reserve(file.fileno(), len(data))
    file.seek(0)
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
    file.truncate(len(data))
    os.fsync(file.fileno())


def _reserve(handle: int, size: int) -> None:
    """Takes the space for a file before anything of it is changed.

    Raises:
        OSError: there is none.
    """
    if sys.platform == "win32" or sys.platform == "darwin":
        return
    try:
        os.posix_fallocate(handle, 0, size)
    except OSError as error:
        # A file system that cannot tell.
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
