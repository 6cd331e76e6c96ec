"""From what a user names (a repository, a folder or a file) to a language model's files."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from kaiwa import demo
from kaiwa.checkpoints import places
from kaiwa.checkpoints.hub import Repository
from kaiwa.checkpoints.mimi import is_mimi_config
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
#: How a file that lists the parts of a model ends, and its published name.
INDEX_ENDING = ".safetensors.index.json"
INDEX_NAME = f"model{INDEX_ENDING}"
#: A part of a model: what it is a part of, its number, and how many there are.
PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.safetensors")
MIMI_NAMES = (
    "tokenizer-e351c8d8-checkpoint125.safetensors",
    "mimi-pytorch-e351c8d8@125.safetensors",
    "mimi.safetensors",
)
TOKENIZER_NAMES = ("tokenizer_spm_32k_3.model", "tokenizer.model")
#: How weight files end, and the lists of their parts.
PATTERNS = (f"*{INDEX_ENDING}", "*.gguf", "*.safetensors", "*.sft", "*.sfts")
LORA_NAMES = ("lora.safetensors", "consolidated/lora.safetensors")


@dataclass(frozen=True)
class MoshiCheckpoint:
    """Files of a language model, and those beside it."""

    weights: list[Path]
    config_json: str | None
    lora: Path | None = None
    lora_config_json: str | None = None
    #: Where the codec and the tokenizer are looked for; ``None`` for a lone file.
    place: places.Place | None = None
    #: The configuration as read, empty without one.
    config: dict[str, Any] = field(default_factory=dict)
    cache_dir: str | PathLike[str] | None = None

    def beside(self, key: str, names: tuple[str, ...]) -> Path | None:
        """A file that the configuration names under ``key``, or that has a published name."""
        if self.place is None:
            return None
        named = self.config.get(key)
        if isinstance(named, str):
            return places.named_file(self.place, named, self.cache_dir)
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

    def references(self, folder: Path) -> dict[str, str]:
        """Entries for the config.json of another form of this model in ``folder``: where its codec
        and tokenizer are."""
        published = {
            "mimi_name": MIMI_NAMES[0],
            "mimi_config_name": None,
            "tokenizer_name": TOKENIZER_NAMES[0],
        }
        found = {}
        for key, name in published.items():
            value = self.config.get(key)
            if isinstance(value, str) and "://" in value:
                found[key] = value
            elif isinstance(self.place, Repository):
                # By name, so that nothing is downloaded for it.
                name = value if isinstance(value, str) else name
                if name is not None:
                    found[key] = f"hf://{self.place.name}/{name}"
            else:
                path = self._local(key)
                if path is not None:
                    found[key] = os.path.relpath(path.resolve(), folder.resolve())
        return found

    def _local(self, key: str) -> Path | None:
        """A file beside a local model, under the key that names it."""
        if key == "mimi_name":
            return self.mimi()
        return self.tokenizer() if key == "tokenizer_name" else self.beside(key, ())


def find(
    source: str | PathLike[str],
    *,
    revision: str | None = None,
    cache_dir: str | PathLike[str] | None = None,
    config: Mapping[str, Any] | str | PathLike[str] | None = None,
    lora: str | PathLike[str] | None = None,
) -> MoshiCheckpoint:
    """Finds (and, for a repository, downloads) what ``source`` and ``lora`` name.

    Raises:
        CheckpointNotFoundError: A path does not exist, or holds no language model.
        DownloadError: A repository cannot be read.
        CheckpointError: A configuration file is not JSON.
        InputError: An argument has a wrong type.
    """
    place, file, name = _place_of("source", source, revision, cache_dir)
    given = places.given_config(config)
    read: dict[str, Any] = {}
    config_json = given
    path = place.file("config.json")
    if path is not None:
        value = places.read_json(path)
        if not is_mimi_config(value):
            read = value
            config_json = config_json or places.read_text(path)
    weights = (
        _weights(place, read, cache_dir)
        if file is None
        else _parts(place, name, cache_dir) or [file]
    )
    adapter, adapter_config = None, None
    if lora is not None:
        adapter, adapter_config = _adapter(lora, revision, cache_dir)
    elif isinstance(read.get("lora_name"), str):
        adapter = places.named_file(place, read["lora_name"], cache_dir)
        adapter_config = config_json
    return MoshiCheckpoint(
        weights=weights,
        config_json=config_json,
        lora=adapter,
        lora_config_json=adapter_config,
        place=place,
        config=read,
        cache_dir=cache_dir,
    )


def _place_of(
    name: str,
    source: str | PathLike[str],
    revision: str | None,
    cache_dir: str | PathLike[str] | None,
) -> tuple[places.Place, Path | None, str]:
    """The folder or repository of a source, and the file in it that was named, if one was, with
    its name there."""
    if not isinstance(source, str | PathLike):
        raise InputError(
            f"{name} is a {type(source).__name__}; pass a repository id, a folder or a file"
        )
    if demo.is_demo(source):
        return places.Folder(demo.folder()), None, ""
    text = os.fspath(source)
    if not isinstance(text, str) or not text:
        raise InputError(f"{name} is {text!r}; pass a repository id, a folder or a file")
    if text.startswith("hf://"):
        owner, repository, *rest = [*text.removeprefix("hf://").split("/", 2), ""]
        place = Repository(f"{owner}/{repository}", revision, cache_dir)
        wanted = rest[0] if rest else ""
        return place, (places.named_file(place, wanted, cache_dir) if wanted else None), wanted
    path = places.expanded(text.removeprefix("file://"))
    if places.is_kind(path, stat.S_ISREG):
        return places.Folder(path.parent), path, path.name
    if places.is_kind(path, stat.S_ISDIR):
        return places.Folder(path), None, ""
    if isinstance(source, str) and places.is_repo_id(text):
        return Repository(text, revision, cache_dir), None, ""
    raise places.not_found(text, "kyutai/moshika-candle-q8")


def _weights(
    place: places.Place, config: Mapping[str, Any], cache_dir: str | PathLike[str] | None
) -> list[Path]:
    """The weight files of a folder or repository."""
    named = config.get("moshi_name")
    if isinstance(named, str):
        parts = _parts(place, named, cache_dir)
        return parts or [places.named_file(place, named, cache_dir)]
    for name in MODEL_NAMES:
        path = place.file(name)
        if path is not None:
            return [path]
    if place.file(INDEX_NAME) is not None:
        return _parts(place, INDEX_NAME, cache_dir)
    others = [name for pattern in PATTERNS for name in place.matching(pattern)]
    for name in others:
        parts = _parts(place, name, cache_dir)
        if parts:
            return parts
    # The codec and adapters may lie beside a model of any name.
    own = [
        name for name in others if name not in (*MIMI_NAMES, *(Path(n).name for n in LORA_NAMES))
    ]
    path = place.file(own[0]) if len(own) == 1 else None
    if path is not None:
        return [path]
    if place.unreachable is not None:
        raise place.unreachable
    raise CheckpointNotFoundError(
        f"{place.name} has no language model: none of {', '.join(MODEL_NAMES)}, no {INDEX_NAME} "
        "and no single weight file; name the file itself"
    )


def _parts(place: places.Place, name: str, cache_dir: str | PathLike[str] | None) -> list[Path]:
    """All parts of a model of which ``name`` is the index or a part; empty if it is neither."""
    part = PART.fullmatch(name)
    if part is not None:
        stem, _, count = part.groups()
        files = [f"{stem}-{i:05}-of-{count}.safetensors" for i in range(1, int(count) + 1)]
        return [places.named_file(place, file, cache_dir, f"the name {name}") for file in files]
    if not name.endswith(INDEX_ENDING):
        return []
    index = places.named_file(place, name, cache_dir)
    listed = places.read_json(index).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(p, str) for p in listed.values()):
        raise CheckpointError(f"{index} has no weight_map of file names; download it again")
    if not listed:
        raise CheckpointError(f"{index} names no files; download it again")
    # Beside the index, wherever in a repository that is.
    folder = name[: -len(name.rpartition("/")[2])]
    files = [file if "://" in file else folder + file for file in sorted(set(listed.values()))]
    return [places.named_file(place, file, cache_dir, index.name) for file in files]


def _adapter(
    lora: str | PathLike[str], revision: str | None, cache_dir: str | PathLike[str] | None
) -> tuple[Path, str | None]:
    """An adapter's file and the text of its configuration."""
    place, file, _ = _place_of("lora", lora, revision, cache_dir)
    if file is None:
        found = (place.file(name) for name in LORA_NAMES)
        file = next((path for path in found if path is not None), None)
    if file is None:
        raise CheckpointNotFoundError(
            f"{place.name} has no adapter: none of {', '.join(LORA_NAMES)}; name the file itself"
        )
    config = file.with_name("config.json")
    return file, places.read_text(config) if config.is_file() else None
