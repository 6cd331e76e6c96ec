"""From what a user names (a repository, a folder or a file) to the codec's weight file and its
configuration."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from kaiwa import demo
from kaiwa.checkpoints import places
from kaiwa.checkpoints.hub import Repository
from kaiwa.errors import CheckpointNotFoundError, InputError

#: File names of the codec, in the order in which they are looked for.
WEIGHT_NAMES = (
    "tokenizer-e351c8d8-checkpoint125.safetensors",
    "mimi.safetensors",
    "model.safetensors",
)


@dataclass(frozen=True)
class MimiCheckpoint:
    """A weight file and the text of its configuration (``None``: the released sizes)."""

    weights: Path
    config_json: str | None


def find(
    source: str | PathLike[str],
    *,
    revision: str | None = None,
    cache_dir: str | PathLike[str] | None = None,
    config: Mapping[str, Any] | str | PathLike[str] | None = None,
) -> MimiCheckpoint:
    """Finds (and, for a repository, downloads) what ``source`` names.

    Raises:
        CheckpointNotFoundError: A path does not exist, or a folder or repository has no codec.
        DownloadError: A repository cannot be read.
        CheckpointError: A configuration file is not JSON.
        InputError: An argument has a wrong type.
    """
    if not isinstance(source, str | PathLike):
        raise InputError(
            f"source is a {type(source).__name__}; pass a repository id, a folder or a file"
        )
    if demo.is_demo(source):
        source = demo.folder()
    text = os.fspath(source)
    if not isinstance(text, str) or not text:
        raise InputError(f"source is {text!r}; pass a repository id, a folder or a file")
    given = places.given_config(config)
    path = places.expanded(text)
    if places.is_kind(path, stat.S_ISREG):
        return MimiCheckpoint(path, given or _sibling_config(path))
    if places.is_kind(path, stat.S_ISDIR):
        return _in_place(places.Folder(path), given, cache_dir)
    if isinstance(source, str) and places.is_repo_id(text):
        return _in_place(Repository(text, revision, cache_dir), given, cache_dir)
    raise places.not_found(text, "kyutai/mimi")


def is_mimi_config(value: Mapping[str, Any]) -> bool:
    """Whether a configuration is the codec's and not a language model's."""
    return "seanet" in value or value.get("model_type") == "mimi"


def _sibling_config(weights: Path) -> str | None:
    path = weights.with_name("config.json")
    if not path.is_file():
        return None
    return places.read_text(path) if is_mimi_config(places.read_json(path)) else None


def _in_place(
    place: places.Place, given: str | None, cache_dir: str | PathLike[str] | None
) -> MimiCheckpoint:
    """The codec of a folder or repository: names in its config.json first, then the
    published ones."""
    names: list[str] = list(WEIGHT_NAMES)
    config = given
    path = place.file("config.json")
    if path is not None:
        value = places.read_json(path)
        is_mimi = is_mimi_config(value)
        if is_mimi:
            config = config or places.read_text(path)
        else:
            # The language model's own weights, not the codec's.
            names.remove("model.safetensors")
        named = value.get("mimi_config_name")
        if config is None and isinstance(named, str):
            config = places.read_text(places.named_file(place, named, cache_dir))
        named = value.get("mimi_name")
        if isinstance(named, str):
            return MimiCheckpoint(places.named_file(place, named, cache_dir), config)
    for name in names:
        weights = place.file(name)
        if weights is not None:
            return MimiCheckpoint(weights, config)
    lone = place.only("*.safetensors")
    if lone is not None:
        return MimiCheckpoint(lone, config)
    if place.unreachable is not None:
        raise place.unreachable
    raise CheckpointNotFoundError(
        f"{place.name} has no codec weights: none of {', '.join(names)} and no single "
        ".safetensors file; name the file itself"
    )
