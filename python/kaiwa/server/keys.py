"""The keys of a running server: read from their file, and read again whenever it changes."""

from __future__ import annotations

import hmac
import logging
import os
import re
import sys
from pathlib import Path

from kaiwa.errors import InputError
from kaiwa.server import key_entry, key_format
from kaiwa.server.key_entry import Key

if sys.platform != "win32":
    import fcntl

_log = logging.getLogger(__name__)

#: By which a changed file is recognised: time of the change, size, number of the inode.
Stamp = tuple[int, int, int]

_WRITABLE_BY_OTHERS = 0o022


class BeingWritten(InputError):  # noqa: N818
    """A program is writing the file at this moment."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} is being written at this moment; try again")


class KeyFile:
    """The keys in a file. Not for several threads at once, except that one may call `refresh`
    while another one asks.

    Attributes:
        follows: whether each question looks at the file first. Otherwise somebody else calls
            `refresh` now and then.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Reads the file.

        Raises:
            InputError: there is none, it cannot be read, or it is damaged.
        """
        self.path = Path(path)
        self.follows = True
        self._stamp: Stamp | None = None
        self._held = _Held(())
        self._warned = ""
        self._tried: Stamp | None = None
        stamp = self._look()
        self._take(read(self.path), stamp)
        self._warn_of_mode()
        self._warn_of_mount()

    def __repr__(self) -> str:
        return f"KeyFile({str(self.path)!r}, {len(self._held.keys)} keys)"

    def entries(self) -> tuple[Key, ...]:
        """Every key, revoked ones too, in the order in which they were made."""
        self._follow()
        return self._held.keys

    def verify(self, secret: str) -> Key | None:
        """The entry of a key that somebody sent; None if there is none. It may be revoked.

        The time it takes tells nothing about the keys: they are found by their hash, which the
        sender of a wrong key cannot steer.
        """
        self._follow()
        digest = key_entry.hash_of(secret)
        found = self._held.by_hash.get(digest)
        same = hmac.compare_digest(digest, found.hash if found else "0" * len(digest))
        return found if same else None

    def get(self, key_id: str) -> Key | None:
        """The entry with an id, as the file has it now; None if there is none."""
        self._follow()
        return self._held.by_id.get(key_id)

    @property
    def changed(self) -> bool:
        """Whether the file is another one than was read, or tried, last."""
        try:
            return self._look() not in (self._stamp, self._tried)
        except InputError as error:
            self._warn(str(error))
            return False

    def _follow(self) -> None:
        if self.follows:
            self.refresh()

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
        except BeingWritten:
            # Its next look sees what was written.
            return False
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
        if found.st_nlink == 0:
            self._warn(
                f"{self.path} was replaced outside, and is mounted by itself, so that the new one "
                "is not seen here; mount its folder, and start again"
            )
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _take(self, keys: tuple[Key, ...], stamp: Stamp) -> None:
        """Replaces the keys."""
        self._held, self._stamp = _Held(keys), stamp

    def _warn(self, text: str) -> None:
        """Logs why the former keys go on counting, unless that was logged already."""
        if text != self._warned:
            self._warned = text
            _log.warning("%s (until then the keys read before go on counting)", text)

    def _warn_of_mode(self) -> None:
        """Logs if other users may write the file, who could then give themselves keys."""
        if os.name == "posix" and self.path.stat().st_mode & _WRITABLE_BY_OTHERS:
            _log.warning("others may write %s; run chmod 600 on it", self.path)

    def _warn_of_mount(self) -> None:
        """Logs if the file itself is mounted: who replaces it outside changes nothing here."""
        if is_mounted(self.path):
            _log.warning(
                "%s is mounted by itself: a program that replaces it outside is not noticed here; "
                "mount its folder",
                self.path,
            )


class _Held:
    """The keys that were read together, by what they are found by."""

    def __init__(self, keys: tuple[Key, ...]) -> None:
        self.keys = keys
        self.by_hash = {key.hash: key for key in keys}
        self.by_id = {key.id: key for key in keys}


def is_mounted(path: Path, table: str = "/proc/self/mountinfo") -> bool:
    """Whether a file itself, not only the folder that it is in, is a mount point."""
    try:
        lines = Path(table).read_bytes().splitlines()
        places = [line.split(b" ", 5)[4] for line in lines]
    except (OSError, IndexError):
        return False
    # Blanks and the like are written as three octal digits.
    real = os.fsencode(os.path.realpath(path))
    return any(
        re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8) & 255]), place) == real
        for place in places
    )


def read(path: Path) -> tuple[Key, ...]:
    """The keys of a file, after a program that is writing it has come to its end.

    Raises:
        InputError: there is none, it cannot be read, or it is damaged.
    """
    return key_format.decode(_content(path, wait=True), str(path))


def _content(path: Path, *, wait: bool = False) -> bytes:
    """The bytes of a file of keys, which may be too many for one.

    Raises:
        InputError: there is none, or it cannot be read.
        BeingWritten: a program is writing it, and `wait` is False.
    """
    try:
        with path.open("rb") as file:
            if sys.platform != "win32":
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | (0 if wait else fcntl.LOCK_NB))
                except BlockingIOError:
                    raise BeingWritten(path) from None
                except OSError as error:
                    # A file system without locks.
                    _log.debug("%s cannot be locked: %s", path, error)
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
