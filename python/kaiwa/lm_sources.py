"""From what a user names (repository, folder, file) to a language model's files."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from kaiwa import demo, sources
from kaiwa._hub import Repository
from kaiwa.errors import CheckpointError, CheckpointNotFoundError, InputError

#: File names of the language model, in the order in which they are looked for.
MODEL_NAMES = (
    "model.safetensors",
    "model.q8.safetensors",
    "model.q4.safetensors",
    "model.q8.gguf",
    "model.q4.gguf",
    "model.gguf",
)
#: Lists the parts of a model that is cut into several files.
INDEX_NAME = "model.safetensors.index.json"
MIMI_NAMES = (
    "tokenizer-e351c8d8-checkpoint125.safetensors",
    "mimi-pytorch-e351c8d8@125.safetensors",
    "mimi.safetensors",
)
TOKENIZER_NAMES = ("tokenizer_spm_32k_3.model", "tokenizer.model")
LORA_NAMES = ("lora.safetensors", "consolidated/lora.safetensors")


@dataclass(frozen=True)
class LmSource:
    """Files of a language model, and those beside it."""

    weights: list[Path]
    config_json: str | None
    lora: Path | None = None
    lora_config_json: str | None = None
    #: Where the codec and the tokenizer are looked for; ``None`` for a lone file.
    place: sources.Place | None = None
    #: The configuration as read, empty without one.
    config: dict[str, Any] = field(default_factory=dict)
    cache_dir: str | PathLike[str] | None = None

    def beside(self, key: str, names: tuple[str, ...]) -> Path | None:
        """A file that the configuration names under ``key``, or that has a usual name."""
        if self.place is None:
            return None
        named = self.config.get(key)
        if isinstance(named, str):
            return sources.named_file(self.place, named, self.cache_dir)
        for name in names:
            path = self.place.file(name)
            if path is not None:
                return path
        return None

    def mimi(self) -> Path | None:
        """The codec beside the model, if there is one."""
        return self.beside("mimi_name", MIMI_NAMES)

    def tokenizer(self) -> Path | None:
        """The tokenizer beside the model, if there is one."""
        found = self.beside("tokenizer_name", TOKENIZER_NAMES)
        if found is None and self.place is not None:
            return self.place.only("*.model")
        return found


def resolve(
    source: str | PathLike[str],
    *,
    revision: str | None = None,
    cache_dir: str | PathLike[str] | None = None,
    config: Mapping[str, Any] | str | PathLike[str] | None = None,
    lora: str | PathLike[str] | None = None,
) -> LmSource:
    """Finds (and, for a repository, downloads) what ``source`` and ``lora`` name.

    Raises:
        CheckpointNotFoundError: A path does not exist, or holds no language model.
        DownloadError: A repository cannot be read.
        CheckpointError: A configuration file is not JSON.
        InputError: An argument has a wrong type.
    """
    place, file = _place_of(source, revision, cache_dir)
    given = sources.given_config(config)
    read: dict[str, Any] = {}
    config_json = given
    path = place.file("config.json")
    if path is not None:
        value = sources.read_json(path)
        if not sources.is_mimi_config(value):
            read = value
            config_json = config_json or sources.read_text(path)
    weights = [file] if file is not None else _weights(place, read, cache_dir)
    adapter, adapter_config = None, None
    if lora is not None:
        adapter, adapter_config = _adapter(lora, revision, cache_dir)
    elif isinstance(read.get("lora_name"), str):
        adapter = sources.named_file(place, read["lora_name"], cache_dir)
        adapter_config = config_json
    return LmSource(
        weights=weights,
        config_json=config_json,
        lora=adapter,
        lora_config_json=adapter_config,
        place=place,
        config=read,
        cache_dir=cache_dir,
    )


def _place_of(
    source: str | PathLike[str], revision: str | None, cache_dir: str | PathLike[str] | None
) -> tuple[sources.Place, Path | None]:
    """The folder or repository of a source, and the file in it that was named, if one was."""
    if not isinstance(source, str | PathLike):
        raise InputError(
            f"source is a {type(source).__name__}; pass a repository id, a folder or a file"
        )
    if demo.is_demo(source):
        return sources.Folder(demo.folder()), None
    text = os.fspath(source)
    if not isinstance(text, str) or not text:
        raise InputError(f"source is {text!r}; pass a repository id, a folder or a file")
    if text.startswith("hf://"):
        owner, name, *rest = [*text.removeprefix("hf://").split("/", 2), ""]
        place = Repository(f"{owner}/{name}", revision, cache_dir)
        wanted = rest[0] if rest else ""
        return place, (sources.named_file(place, wanted, cache_dir) if wanted else None)
    path = sources.expanded(text.removeprefix("file://"))
    if sources.is_kind(path, stat.S_ISREG):
        return sources.Folder(path.parent), path
    if sources.is_kind(path, stat.S_ISDIR):
        return sources.Folder(path), None
    if isinstance(source, str) and sources.is_repo_id(text):
        return Repository(text, revision, cache_dir), None
    raise CheckpointNotFoundError(
        f"{text} does not exist as a file or folder; check the path, or give a Hugging Face "
        "repository such as kyutai/moshika-candle-q8"
    )


def _weights(
    place: sources.Place, config: Mapping[str, Any], cache_dir: str | PathLike[str] | None
) -> list[Path]:
    """The weight files of a folder or repository."""
    named = config.get("moshi_name")
    if isinstance(named, str):
        return [sources.named_file(place, named, cache_dir)]
    for name in MODEL_NAMES:
        path = place.file(name)
        if path is not None:
            return [path]
    index = place.file(INDEX_NAME)
    if index is not None:
        parts = sources.read_json(index).get("weight_map")
        if not isinstance(parts, dict) or not all(isinstance(p, str) for p in parts.values()):
            raise CheckpointError(f"{index} has no weight_map of file names; download it again")
        return [sources.named_file(place, name, cache_dir) for name in sorted(set(parts.values()))]
    for pattern in ("*.gguf", "*.safetensors"):
        path = place.only(pattern)
        if path is not None:
            return [path]
    if place.unreachable is not None:
        raise place.unreachable
    raise CheckpointNotFoundError(
        f"{place.name} has no language model: none of {', '.join(MODEL_NAMES)}, no {INDEX_NAME} "
        "and no single weight file; name the file itself"
    )


def _adapter(
    lora: str | PathLike[str], revision: str | None, cache_dir: str | PathLike[str] | None
) -> tuple[Path, str | None]:
    """An adapter's file and the text of its configuration."""
    place, file = _place_of(lora, revision, cache_dir)
    if file is None:
        found = (place.file(name) for name in LORA_NAMES)
        file = next((path for path in found if path is not None), None)
    if file is None:
        raise CheckpointNotFoundError(
            f"{place.name} has no adapter: none of {', '.join(LORA_NAMES)}; name the file itself"
        )
    config = file.with_name("config.json")
    return file, sources.read_text(config) if config.is_file() else None
