"""Exceptions of Kaiwa.

::

    KaiwaError
    ├── InputError (also ValueError)        an argument is wrong: the same call fails again
    ├── CheckpointError                     a weight or configuration file is damaged or foreign
    │   ├── CheckpointNotFoundError (also FileNotFoundError)
    │   └── DownloadError                   a repository cannot be reached or read
    ├── DeviceError (also RuntimeError)     a device is missing or failed
    ├── ClosedError                         a session or an engine has ended
    ├── CapacityError                       full, overloaded or draining: may work later
    ├── AudioFileError                      an audio or codes file cannot be read or written
    └── ServerError                         a server cannot be reached, refused or broke off

Every message says what was given, what was wanted and what to do.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "AudioFileError",
    "CapacityError",
    "CheckpointError",
    "CheckpointNotFoundError",
    "ClosedError",
    "DeviceError",
    "DownloadError",
    "InputError",
    "KaiwaError",
    "ServerError",
]


class KaiwaError(Exception):
    """Base class of every error that Kaiwa raises on purpose."""


class InputError(KaiwaError, ValueError):
    """An argument has a wrong type, shape or value."""


class CheckpointError(KaiwaError):
    """A weight or configuration file is damaged, foreign, or does not fit."""


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """A weight or configuration file does not exist."""

    def __str__(self) -> str:
        # OSError would print an errno tuple for some argument counts.
        return str(self.args[0]) if self.args else ""


class DownloadError(CheckpointError):
    """A model repository cannot be reached, does not exist, or asks for permission."""


class DeviceError(KaiwaError, RuntimeError):
    """A device does not exist, is not compiled in, or failed."""


class AudioFileError(KaiwaError):
    """An audio or codes file cannot be read or written."""


class ClosedError(KaiwaError):
    """A session or an engine has ended and takes nothing more."""


class CapacityError(KaiwaError):
    """There is no room for another conversation at present; the same request may succeed later.

    Attributes:
        reason: ``full`` (every slot is taken), ``overloaded`` (a step would take too long) or
            ``draining`` (the engine is about to end).
    """

    def __init__(self, message: str, reason: str = "full") -> None:
        super().__init__(message)
        self.reason = reason


class ServerError(KaiwaError):
    """A server cannot be reached, refused a call, or ended it with an error.

    Attributes:
        code: one word: why the call was refused (`full`, `unknown_key`) or closed (`overloaded`,
            `slow_consumer`), as listed in `kaiwa.reasons`; or what the client itself saw:
            `unreachable`, `timeout` or `lost`.
        retry: seconds after which another attempt makes sense; None: it will fail again.
        status: HTTP status of a refusal, or code of the close; 0 where there was neither.
    """

    def __init__(
        self, message: str, *, code: str, retry: float | None = None, status: int = 0
    ) -> None:
        super().__init__(message)
        self.code = code
        self.retry = retry
        self.status = status

    def __reduce__(self) -> tuple[Any, ...]:
        return _server_error, (str(self), self.code, self.retry, self.status)


def _server_error(message: str, code: str, retry: float | None, status: int) -> ServerError:
    """Makes the error anew on the other side of a pickle."""
    return ServerError(message, code=code, retry=retry, status=status)
