"""A language model with the codec and the tokenizer that belong to it.

A source is what :meth:`Moshi.from_pretrained` takes, or ``synth:SIZE`` (``synth:tiny``): random
weights made in memory, for trying everything without a download. Such a model babbles.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from kaiwa import _native, demo
from kaiwa.checkpoints import mimi as mimi_checkpoints
from kaiwa.checkpoints import moshi as moshi_checkpoints
from kaiwa.errors import CheckpointNotFoundError, InputError
from kaiwa.load_options import LoadOptions
from kaiwa.mimi import Mimi
from kaiwa.moshi import Moshi, find_files, open_files, refuse_for_random
from kaiwa.text import Tokenizer

#: What a source of random weights begins with.
SYNTH = "synth:"


@dataclass(frozen=True)
class Parts:
    """What a conversation needs."""

    moshi: Moshi
    mimi: Mimi
    tokenizer: Tokenizer | None
    #: What to call the model in lists; never a path of this machine.
    name: str
    #: Whether the weights are random.
    synthetic: bool


def is_synthetic(source: object) -> bool:
    """Whether a source names random weights."""
    return isinstance(source, str) and source.startswith(SYNTH)


def public_name(source: str | PathLike[str]) -> str:
    """What to call a model towards others: a repository's name, or a file's without its folder."""
    text = os.fspath(source)
    if (
        demo.is_demo(source)
        or is_synthetic(text)
        or text.startswith("hf://")
        or not Path(text).exists()
    ):
        return text.removeprefix("hf://")
    return Path(text).resolve().name


def load(
    source: str | PathLike[str],
    *,
    mimi: str | PathLike[str] | None = None,
    tokenizer: str | PathLike[str] | None = None,
    options: LoadOptions | None = None,
    **keywords: Any,
) -> Parts:
    """Loads a model and, unless others are named, the codec and tokenizer beside it.

    Args:
        source: As for :meth:`Moshi.from_pretrained`.
        mimi: A source of :meth:`Mimi.from_pretrained`.
        tokenizer: The file of a SentencePiece model.
        options: How to load; or the same as keywords, which are those of
            :meth:`Moshi.from_pretrained`, and ``mimi_device``.
        **keywords: See ``options``.

    Raises:
        As :meth:`Moshi.from_pretrained`.
    """
    if options is None:
        options = LoadOptions(**keywords)
    elif keywords:
        raise TypeError(f"options= is given, and {', '.join(keywords)} beside it")
    if is_synthetic(source):
        return _random(str(source), mimi, tokenizer, options)
    found = find_files(source, options)
    # Before minutes go into reading the model.
    beside = _codec_beside(found, source, options) if mimi is None else mimi
    files = open_files(found)
    path = tokenizer if tokenizer is not None else found.tokenizer()
    words = _tokenizer(path, files) if path is not None else None
    moshi = Moshi.from_files(files, options)
    codec = _codec(beside, moshi, options, named=mimi is not None)
    return Parts(moshi, codec, words, public_name(source), synthetic=False)


def load_transcriber(
    source: str | PathLike[str],
    mimi: str | PathLike[str] | None,
    tokenizer: str | PathLike[str] | None,
    options: LoadOptions,
) -> tuple[Moshi, Mimi | None, Tokenizer | None]:
    """Loads a speech to text model and, unless others are named, the codec and tokenizer beside it,
    if they are there.

    Raises:
        InputError: It is a model that speaks.
        As :meth:`Moshi.from_pretrained`.
    """
    if is_synthetic(source):
        parts = _random(str(source), mimi, tokenizer, options)
        return parts.moshi, parts.mimi, parts.tokenizer
    found = find_files(source, options)
    files = open_files(found)
    if files.spoken:
        raise InputError(
            f"{public_name(source)} is a model that speaks; converse with it (kaiwa run, "
            "kaiwa.Duplex), or name a speech to text model such as kyutai/stt-1b-en_fr"
        )
    beside = mimi
    if beside is None:
        with contextlib.suppress(CheckpointNotFoundError):
            beside = _codec_beside(found, source, options)
    path = tokenizer if tokenizer is not None else found.tokenizer()
    words = _tokenizer(path, files) if path is not None else None
    moshi = Moshi.from_files(files, options)
    codec = None
    if beside is not None:
        codec = _codec(beside, moshi, options, named=mimi is not None)
    return moshi, codec, words


def _codec(source: str | PathLike[str], moshi: Moshi, options: LoadOptions, *, named: bool) -> Mimi:
    """The codec of a model; where it is `named` apart, the model's revision is not its own."""
    return Mimi.from_pretrained(
        source,
        num_codebooks=max(moshi.num_codebooks_in, 1),
        device=options.codec_device,
        revision=None if named else options.revision,
        cache_dir=options.cache_dir,
    )


def _tokenizer(path: str | PathLike[str], files: _native.LmFiles) -> Tokenizer:
    """The tokenizer of a model whose files are open, but not read yet."""
    return Tokenizer.load(path, expected_pieces=json.loads(files.config_json)["text_card"])


def _codec_beside(
    found: moshi_checkpoints.MoshiCheckpoint,
    source: str | PathLike[str],
    options: LoadOptions,
) -> str | PathLike[str]:
    """The source of the codec that lies beside a model."""
    place = found.place.name if found.place else source
    try:
        files = mimi_checkpoints.find(place, revision=options.revision, cache_dir=options.cache_dir)
    except CheckpointNotFoundError as error:
        reason: CheckpointNotFoundError | None = error
    else:
        if files.weights not in found.weights:
            return place
        reason = None  # the lone file of the folder: the model itself
    raise CheckpointNotFoundError(
        f"{place} has no codec beside the language model; name one with mimi= (--mimi), such as "
        "kyutai/mimi or the tokenizer-e351c8d8-checkpoint125.safetensors of a Moshi repository"
    ) from reason


def _random(
    source: str,
    mimi: str | PathLike[str] | None,
    tokenizer: str | PathLike[str] | None,
    options: LoadOptions,
) -> Parts:
    """A random model of a named size, with a codec and a tokenizer that fit."""
    size = source.removeprefix(SYNTH)
    refuse_for_random(source, options)
    if mimi is None:
        mimi = f"{SYNTH}{'small' if size.endswith('tiny') else 'full'}"
    # Made before the codec, so that a wrong size is reported at once.
    files = _native.LmFiles.random(size, 0)
    sizes = json.loads(files.config_json)
    books = int(sizes["n_q"]) - files.spoken
    codec = Mimi.from_pretrained(mimi, num_codebooks=books, device=options.codec_device)
    files = _native.LmFiles.random(size, 0, codec.cardinality)
    words = _tokenizer(tokenizer, files) if tokenizer is not None else None
    moshi = Moshi.from_files(files, options)
    if words is None:
        from kaiwa.synth.tokenizer import write_tokenizer

        with tempfile.TemporaryDirectory(prefix="kaiwa-") as folder:
            path = Path(folder) / "tokenizer.model"
            write_tokenizer(path, moshi.text_card)
            words = Tokenizer.load(path)
    return Parts(moshi, codec, words, source, synthetic=True)
