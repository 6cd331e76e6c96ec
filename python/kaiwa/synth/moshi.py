"""Random language models of any size in every published format, with codec and tokenizer."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from kaiwa import _native
from kaiwa._atomic import replacing
from kaiwa.errors import InputError

#: Sizes of duplex models and of speech to text, smallest first; ``7b`` is the released one.
MOSHI_SIZES: tuple[str, ...] = _native.LM_SIZES

TOKENIZER_NAME = "tokenizer_spm_32k_3.model"


def write_moshi(
    folder: str | os.PathLike[str],
    *,
    size: str = "tiny",
    format: str = "pytorch-bf16",  # noqa: A002
    seed: int = 0,
    mimi: bool = False,
    tokenizer: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> Path:
    """Writes a random language model that loads and runs like a released one; gives its file.

    Args:
        folder: Folder for weights and ``config.json``; made if it is missing.
        size: One of :data:`MOSHI_SIZES`.
        format: A name such as ``"gguf-q8"`` (see ``kaiwa convert --help``).
        seed: The same seed is the same model, in every format (before rounding).
        mimi: Also write a random codec that fits.
        tokenizer: Also write a made-up SentencePiece tokenizer that fits.
        progress: Called now and then with (bytes done, bytes in all).

    Raises:
        InputError: An argument is out of range, or the folder belongs to another model.
    """
    target = Path(folder)
    name = _native.lm_file_name(format)
    if target.exists() and not target.is_dir():
        raise InputError(f"{target} is a file; name a folder")
    files = _native.LmFiles.random(size, seed)
    config = json.loads(files.config_for(format, name))
    if mimi:
        config["mimi_name"] = "mimi/tokenizer-e351c8d8-checkpoint125.safetensors"
        config["mimi_config_name"] = "mimi/config.json"
    if tokenizer:
        config["tokenizer_name"] = TOKENIZER_NAME
    text = json.dumps(config, indent=1)
    there = target / "config.json"
    if there.exists() and json.loads(there.read_text(encoding="utf-8")) != config:
        raise InputError(f"{there} belongs to another model; give an empty folder as the output")
    made = not target.exists()
    target.mkdir(parents=True, exist_ok=True)
    try:
        files.convert(target / name, format, progress)
    except BaseException:
        if made:
            target.rmdir()
        raise
    with replacing(there) as temporary:
        temporary.write_text(text, encoding="utf-8")
    if mimi:
        from kaiwa.synth.checkpoint import write_mimi

        write_mimi(target / "mimi", seed=seed, size="small" if size.endswith("tiny") else "full")
    if tokenizer:
        from kaiwa.synth.tokenizer import write_tokenizer

        write_tokenizer(target / TOKENIZER_NAME, int(config["text_card"]), seed)
    return target / name
