"""Exceptions of Kaiwa.

::

    KaiwaError
    ├── InputError (also ValueError)        an argument is wrong: the same call fails again
    ├── CheckpointError                     a weight or configuration file is damaged or foreign
    │   ├── CheckpointNotFoundError (also FileNotFoundError)
    │   └── DownloadError                   a repository cannot be reached or read
    ├── DeviceError (also RuntimeError)     a device is missing or failed
    └── AudioFileError                      an audio or codes file cannot be read or written

Every message says what was given, what was wanted and what to do.
"""

from __future__ import annotations

__all__ = [
    "AudioFileError",
    "CheckpointError",
    "CheckpointNotFoundError",
    "DeviceError",
    "DownloadError",
    "InputError",
    "KaiwaError",
]


class KaiwaError(Exception):
    """Base of everything Kaiwa raises on purpose."""


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
