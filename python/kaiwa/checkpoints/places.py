"""Where the files of a checkpoint are looked for: a local folder, or a repository of the Hugging
Face Hub."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

from kaiwa import _streams
from kaiwa.checkpoints.hub import Repository
from kaiwa.errors import CheckpointError, CheckpointNotFoundError, DownloadError, InputError

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


class Place(Protocol):
    """A folder or repository in which files are looked for."""

    @property
    def name(self) -> str:
        """As the user wrote it."""

    @property
    def unreachable(self) -> DownloadError | None:
        """Why an answer of ``None`` may be wrong: there was no network."""

    def file(self, name: str) -> Path | None:
        """The local path of a file, or ``None`` if there is none."""

    def matching(self, pattern: str) -> list[str]:
        """Names of the files of a pattern such as ``*.safetensors``."""

    def only(self, pattern: str) -> Path | None:
        """The only file of a pattern, or ``None``."""


class Folder:
    """A local folder."""

    unreachable: DownloadError | None = None

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path

    def file(self, name: str) -> Path | None:
        """The path of a file in the folder, or ``None``."""
        path = self._path / name
        return path if path.is_file() else None

    def matching(self, pattern: str) -> list[str]:
        """Names of the files of a pattern."""
        return sorted(path.name for path in self._path.glob(pattern) if path.is_file())

    def only(self, pattern: str) -> Path | None:
        """The only file of a pattern, or ``None``."""
        found = self.matching(pattern)
        return self._path / found[0] if len(found) == 1 else None


def named_file(
    place: Place, name: str, cache_dir: str | PathLike[str] | None, by: str = "config.json"
) -> Path:
    """A file named in a config.json (or in ``by``): beside it, or ``hf://owner/name/file``
    elsewhere."""
    if name.startswith("hf://"):
        owner, repo, name = [*name.removeprefix("hf://").split("/", 2), "", ""][:3]
        place = Repository(f"{owner}/{repo}", None, cache_dir)
    path = place.file(name.removeprefix("file://"))
    if path is not None:
        return path
    if place.unreachable is not None:
        raise place.unreachable
    raise CheckpointNotFoundError(
        f"{by} of {place.name} names {name}, which is not there; download it too, or name the file "
        "that is to be used itself"
    )


def expanded(text: str) -> Path:
    """A path with ``~`` replaced, as far as possible."""
    try:
        return Path(text).expanduser()
    except RuntimeError:  # no such user
        return Path(text)


def is_kind(path: Path, kind: Callable[[int], bool]) -> bool:
    """Whether a path exists and is of a kind."""
    try:
        return kind(path.stat().st_mode)
    except PermissionError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}; check permissions") from error
    except (OSError, ValueError):  # absent, or no name a file could have
        return False


def is_repo_id(text: str) -> bool:
    """Whether a text that is no existing path reads as ``owner/name`` of a repository."""
    return bool(_REPO.fullmatch(text)) and not text.endswith((".safetensors", ".json", ".gguf"))


def given_config(config: Mapping[str, Any] | str | PathLike[str] | None) -> str | None:
    """The JSON text of a ``config=`` argument."""
    if config is None:
        return None
    if isinstance(config, Mapping):
        try:
            return json.dumps(dict(config))
        except (TypeError, ValueError) as error:
            raise InputError(f"config cannot be written as JSON: {error}") from error
    if not isinstance(config, str | PathLike):
        raise InputError(f"config is a {type(config).__name__}; pass a dict or a path")
    path = expanded(os.fspath(config))
    if not is_kind(path, stat.S_ISREG):
        raise CheckpointNotFoundError(
            f"{path} does not exist; pass config= the path of a JSON file"
        )
    return read_text(path)


def read_text(path: Path) -> str:
    """A text file, with our own error."""
    try:
        # Some editors begin a file with a mark that is no part of JSON.
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"cannot read {path}: {error}; pass another config=") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, with our own errors."""
    try:
        value = json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is not JSON: {error}; download it again or pass config="
        ) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is not a JSON object; download it again or pass config=")
    return value


def not_found(text: str, example: str) -> CheckpointNotFoundError:
    """The error for a source that is neither a file nor a folder nor a repository.

    Args:
        text: the source.
        example: a repository that could be meant.
    """
    if _streams.is_stream(text):
        return CheckpointNotFoundError(
            f"{_streams.name_of(text)} can be read only once, from start to end, and weights are "
            "read here and there; save them to a file first"
        )
    return CheckpointNotFoundError(
        f"{text} does not exist as a file or folder; check the path, or give a Hugging Face "
        f"repository such as {example}"
    )
