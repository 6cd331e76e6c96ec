"""Changes to a file of keys. A lock makes programs that change it at once wait for each other."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
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
    """Holds a lock beside the file, so that two changes do not overwrite each other."""
    real = Path(os.path.realpath(path))
    if sys.platform == "win32" or not real.parent.is_dir():
        yield  # the writer reports a missing folder
        return
    try:
        lock = os.open(real.with_name(f".{real.name}.lock"), os.O_RDWR | os.O_CREAT, _OWNER_ONLY)
    except OSError as error:
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
    """Replaces the file. It keeps its owner, and its group may still read it if it could before."""
    former = path.stat() if path.exists() else None
    with replacing(path) as temporary:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _OWNER_ONLY)
        with os.fdopen(handle, "wb") as file:
            file.write(key_format.encode(keys))
            file.flush()
            os.fsync(file.fileno())
        if former is not None and sys.platform != "win32":
            with suppress(PermissionError):
                os.chown(temporary, former.st_uid, former.st_gid)
                temporary.chmod(_OWNER_ONLY | (former.st_mode & _GROUP_MAY_READ))
