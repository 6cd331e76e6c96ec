"""The keys of a running server: read from their file, and read again whenever it changes."""

from __future__ import annotations

import hmac
import logging
import os
from pathlib import Path

from kaiwa.errors import InputError
from kaiwa.server import key_entry, key_format
from kaiwa.server.key_entry import Key

_log = logging.getLogger(__name__)

#: By which a changed file is recognised: time of the change, size, number of the inode.
Stamp = tuple[int, int, int]

_WRITABLE_BY_OTHERS = 0o022


class KeyFile:
    """The keys in a file. Not for several threads at once."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Reads the file.

        Raises:
            InputError: there is none, it cannot be read, or it is damaged.
        """
        self.path = Path(path)
        self._stamp: Stamp | None = None
        self._keys: tuple[Key, ...] = ()
        self._by_hash: dict[str, Key] = {}
        self._by_id: dict[str, Key] = {}
        self._warned = ""
        self._tried: Stamp | None = None
        stamp = self._look()
        self._take(read(self.path), stamp)
        self._warn_of_mode()

    def __repr__(self) -> str:
        return f"KeyFile({str(self.path)!r}, {len(self._keys)} keys)"

    def entries(self) -> tuple[Key, ...]:
        """Every key, revoked ones too, in the order in which they were made."""
        self.refresh()
        return self._keys

    def verify(self, secret: str) -> Key | None:
        """The entry of a key that somebody sent; None if there is none. It may be revoked.

        The time it takes tells nothing about the keys: they are found by their hash, which the
        sender of a wrong key cannot steer.
        """
        self.refresh()
        digest = key_entry.hash_of(secret)
        found = self._by_hash.get(digest)
        same = hmac.compare_digest(digest, found.hash if found else "0" * len(digest))
        return found if same else None

    def get(self, key_id: str) -> Key | None:
        """The entry with an id, as the file has it now; None if there is none."""
        self.refresh()
        return self._by_id.get(key_id)

    def refresh(self) -> bool:
        """Reads the file again if it changed; whether it did.

        A file that is missing or damaged leaves the keys as they were, with one warning. A damaged
        one is parsed once, not at every call.
        """
        try:
            stamp = self._look()
            if stamp in (self._stamp, self._tried):
                return False
            data = _content(self.path)
            self._tried = stamp
            keys = key_format.decode(data, str(self.path))
        except InputError as error:
            self._warn(str(error))
            return False
        self._take(keys, stamp)
        self._warned = ""
        _log.info("%s was read again: %d keys", self.path, len(keys))
        self._warn_of_mode()
        return True

    def reload(self) -> bool:
        """Reads the file again, changed or not; whether it could be used."""
        self._stamp = self._tried = None
        self._warned = ""
        return self.refresh()

    def _look(self) -> Stamp:
        """The stamp of the file as it is now."""
        try:
            found = self.path.stat()
        except OSError as error:
            raise _unreadable(self.path, error) from None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _take(self, keys: tuple[Key, ...], stamp: Stamp) -> None:
        """Replaces the keys."""
        self._keys, self._stamp = keys, stamp
        self._by_hash = {key.hash: key for key in keys}
        self._by_id = {key.id: key for key in keys}

    def _warn(self, text: str) -> None:
        """Logs why the former keys go on counting, unless that was logged already."""
        if text != self._warned:
            self._warned = text
            _log.warning("%s (until then the keys read before go on counting)", text)

    def _warn_of_mode(self) -> None:
        """Logs if other users may write the file, who could then give themselves keys."""
        if os.name == "posix" and self.path.stat().st_mode & _WRITABLE_BY_OTHERS:
            _log.warning("others may write %s; run chmod 600 on it", self.path)


def read(path: Path) -> tuple[Key, ...]:
    """The keys of a file.

    Raises:
        InputError: there is none, it cannot be read, or it is damaged.
    """
    return key_format.decode(_content(path), str(path))


def _content(path: Path) -> bytes:
    """The bytes of a file of keys, which may be too many for one.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(key_format.MAX_BYTES + 1)
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> InputError:
    """The error for a file that cannot be opened."""
    if isinstance(error, FileNotFoundError):
        return InputError(
            f"there is no file of keys {path}; make one with `kaiwa key add NAME --file {path}`"
        )
    return InputError(f"the file of keys {path} cannot be read: {error.strerror or error}")
