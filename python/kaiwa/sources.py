"""From what a user names (repository, folder, file) to a weight file and its configuration."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from kaiwa.errors import CheckpointError, CheckpointNotFoundError, DownloadError, InputError

#: File names of the codec, in the order in which they are looked for.
WEIGHT_NAMES = (
    "tokenizer-e351c8d8-checkpoint125.safetensors",
    "mimi.safetensors",
    "model.safetensors",
)
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class Files:
    """A weight file and the text of its configuration (``None``: the released sizes)."""

    weights: Path
    config_json: str | None


def resolve(
    source: str | PathLike[str],
    *,
    revision: str | None = None,
    cache_dir: str | PathLike[str] | None = None,
    config: Mapping[str, Any] | str | PathLike[str] | None = None,
) -> Files:
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
    given = _given_config(config)
    path = Path(os.fspath(source)).expanduser()
    if path.is_file():
        return Files(path, given or _sibling_config(path))
    if path.is_dir():
        return _in_folder(str(path), _local(path), given)
    text = os.fspath(source)
    if isinstance(text, str) and is_repo_id(text):
        return _in_folder(text, _hub(text, revision, cache_dir), given)
    raise CheckpointNotFoundError(
        f"{text} does not exist; check the path, or give a Hugging Face repository such as "
        "kyutai/mimi"
    )


def is_repo_id(text: str) -> bool:
    """Whether a text that is no existing path reads as ``owner/name`` of a repository."""
    return bool(_REPO.fullmatch(text)) and not text.endswith((".safetensors", ".json", ".gguf"))


def _given_config(config: Mapping[str, Any] | str | PathLike[str] | None) -> str | None:
    if config is None:
        return None
    if isinstance(config, Mapping):
        try:
            return json.dumps(dict(config))
        except (TypeError, ValueError) as error:
            raise InputError(f"config cannot be written as JSON: {error}") from error
    if not isinstance(config, str | PathLike):
        raise InputError(f"config is a {type(config).__name__}; pass a dict or a path")
    path = Path(os.fspath(config))
    if not path.is_file():
        raise CheckpointNotFoundError(
            f"{path} does not exist; pass config= the path of a JSON file"
        )
    return _text(path)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"cannot read {path}: {error}; pass another config=") from error


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is not JSON: {error}; download it again or pass config="
        ) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is not a JSON object; download it again or pass config=")
    return value


def _is_mimi_config(value: Mapping[str, Any]) -> bool:
    return "seanet" in value or value.get("model_type") == "mimi"


def _sibling_config(weights: Path) -> str | None:
    path = weights.with_name("config.json")
    if not path.is_file():
        return None
    return _text(path) if _is_mimi_config(_json(path)) else None


#: Gives the local path of a file of a folder or repository, or ``None`` if it has none.
Fetch = Callable[[str], Path | None]


def _in_folder(where: str, fetch: Fetch, given: str | None) -> Files:
    """The codec of a folder or repository: names in its config.json first, then the usual ones."""
    names: list[str] = list(WEIGHT_NAMES)
    config = given
    path = fetch("config.json")
    if path is not None:
        value = _json(path)
        if _is_mimi_config(value):
            config = config or _text(path)
        named = value.get("mimi_config_name")
        if config is None and isinstance(named, str):
            config = _text(_named(where, fetch, named))
        named = value.get("mimi_name")
        if isinstance(named, str):
            return Files(_named(where, fetch, named), config)
        if not _is_mimi_config(value):
            # The language model's own weights, not the codec's.
            names.remove("model.safetensors")
    for name in names:
        weights = fetch(name)
        if weights is not None:
            return Files(weights, config)
    lone = fetch("*.safetensors")
    if lone is not None:
        return Files(lone, config)
    raise CheckpointNotFoundError(
        f"{where} has no codec weights: none of {', '.join(names)} and no single .safetensors "
        "file; name the file itself"
    )


def _named(where: str, fetch: Fetch, name: str) -> Path:
    path = fetch(name)
    if path is None:
        raise CheckpointNotFoundError(
            f"config.json of {where} names {name}, which is not there; download it too, or name "
            "the codec's file itself"
        )
    return path


def _local(folder: Path) -> Fetch:
    def fetch(name: str) -> Path | None:
        if "*" in name:
            found = sorted(folder.glob(name))
            return found[0] if len(found) == 1 else None
        if name.startswith("hf://"):
            return _remote(name, None, None)
        path = folder / name.removeprefix("file://")
        return path if path.is_file() else None

    return fetch


def _hub(repo: str, revision: str | None, cache_dir: str | PathLike[str] | None) -> Fetch:
    def fetch(name: str) -> Path | None:
        if "*" in name:
            return None
        if name.startswith("hf://"):
            return _remote(name, revision, cache_dir)
        return download(repo, name, revision=revision, cache_dir=cache_dir)

    return fetch


def _remote(
    reference: str, revision: str | None, cache_dir: str | PathLike[str] | None
) -> Path | None:
    owner, name, file = [*reference.removeprefix("hf://").split("/", 2), "", ""][:3]
    return download(f"{owner}/{name}", file, revision=revision, cache_dir=cache_dir)


def _folder(path: str | PathLike[str] | None) -> Path | None:
    return None if path is None else Path(path)


def download(
    repo: str,
    name: str,
    *,
    revision: str | None = None,
    cache_dir: str | PathLike[str] | None = None,
) -> Path | None:
    """A file of a Hugging Face repository, from the cache or the network; ``None`` if the
    repository has no such file.

    Raises:
        DownloadError: The repository does not exist, is gated, or cannot be reached.
    """
    from huggingface_hub import errors, hf_hub_download

    try:
        return Path(hf_hub_download(repo, name, revision=revision, cache_dir=_folder(cache_dir)))
    except errors.LocalEntryNotFoundError as error:
        raise DownloadError(
            f"cannot reach the Hub for {name} of {repo}, and it is not in the cache; check the "
            "network, or pass the path of a local copy"
        ) from error
    except errors.EntryNotFoundError:
        return None
    except errors.GatedRepoError as error:
        raise DownloadError(
            f"{repo} is gated; accept its licence on its page, then set HF_TOKEN or run "
            "`hf auth login`"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise DownloadError(
            f"{repo} has no revision {revision!r}; pass a branch, tag or commit that exists"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise DownloadError(
            f"{repo} is neither a local path nor a repository that can be seen; check the "
            "spelling, or set HF_TOKEN if it is private"
        ) from error
    except (errors.HFValidationError, ValueError) as error:
        raise DownloadError(f"{repo} is not a repository id: {error}") from error
    except Exception as error:  # network libraries raise many kinds; all mean the same here
        raise DownloadError(
            f"downloading {name} of {repo} failed: {error}; check the network, or pass the path "
            "of a local copy"
        ) from error
