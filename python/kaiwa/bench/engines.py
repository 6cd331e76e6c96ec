"""Implementations of Mimi behind one small interface, so that they can take turns.

Every engine gives fresh streams on request; nothing of an earlier round is left in them. Peers
are imported only when asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kaiwa import Mimi

Array = NDArray[np.float32]
Codes = NDArray[Any]


class Streams(Protocol):
    """Streams stepped together, each call one frame of all of them."""

    def encode(self, pcm: Array) -> Codes:
        """`[slots, 1, frame_size]` to codes `[slots, K, 1]`."""

    def decode(self, codes: Codes) -> Array:
        """Codes `[slots, K, 1]` to `[slots, 1, frame_size]`."""


class Engine(Protocol):
    """One implementation with its weights loaded."""

    name: str

    def streams(self, slots: int) -> Streams:
        """Fresh streams."""

    def encode_file(self, pcm: Array) -> Codes:
        """A whole signal `[samples]` at once, to codes `[K, frames]`."""

    def decode_file(self, codes: Codes) -> Array:
        """Codes `[K, frames]` of a whole signal at once, to `[samples]`."""


class Kaiwa:
    """This package."""

    name = "kaiwa"

    def __init__(self, mimi: Mimi) -> None:
        self.mimi = mimi

    def streams(self, slots: int) -> Streams:
        """Slots of one stream object."""
        return self.mimi.stream(slots)

    def encode_file(self, pcm: Array) -> Codes:
        """As `Engine.encode_file`."""
        return self.mimi.encode(pcm)

    def decode_file(self, codes: Codes) -> Array:
        """As `Engine.decode_file`."""
        pcm: Array = self.mimi.decode(codes)[0]
        return pcm


class Rustymimi:
    """The rustymimi wheel. It cannot share weights between streams or reset one reliably, so
    fresh streams are a fresh object, with its own copy of the weights."""

    name = "rustymimi"

    def __init__(self, path: Path, num_codebooks: int) -> None:
        import rustymimi

        self._make: Callable[[], Any] = lambda: rustymimi.Tokenizer(
            str(path), num_codebooks=num_codebooks
        )
        self._make()

    def streams(self, slots: int) -> Streams:
        """A fresh object whose steps take a batch of `slots` rows."""
        return _RustymimiStreams(self._make())

    def encode_file(self, pcm: Array) -> Codes:
        """As `Engine.encode_file`; loading is left out by `prepare_file`."""
        codes: Codes = self._file.encode(pcm[None, None, :])[0]
        return codes

    def decode_file(self, codes: Codes) -> Array:
        """As `Engine.decode_file`."""
        pcm: Array = self._file.decode(np.ascontiguousarray(codes[None].astype(np.uint32)))[0, 0]
        return pcm

    def prepare_file(self) -> None:
        """A fresh object for the next file: the position counter of an old one runs on."""
        self._file = self._make()


class _RustymimiStreams:
    """Steps of one `rustymimi.Tokenizer`."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def encode(self, pcm: Array) -> Codes:
        """One frame of every row."""
        codes: Codes = self._tokenizer.encode_step(pcm)
        return codes

    def decode(self, codes: Codes) -> Array:
        """One column of every row."""
        pcm: Array = self._tokenizer.decode_step(codes)
        return pcm


class Moshi:
    """Kyutai's PyTorch package, eager mode on the processor."""

    name = "moshi (PyTorch)"

    def __init__(self, path: Path, num_codebooks: int) -> None:
        import torch
        from moshi.models import loaders

        self._torch = torch
        self._make: Callable[[], Any] = lambda: loaders.get_mimi(
            str(path), num_codebooks=num_codebooks
        ).eval()
        self._file = self._make()

    def streams(self, slots: int) -> Streams:
        """A fresh model in streaming mode with `slots` rows."""
        model = self._make()
        model.streaming_forever(slots)
        return _MoshiStreams(self._torch, model)

    def encode_file(self, pcm: Array) -> Codes:
        """As `Engine.encode_file`."""
        codes: Codes = _MoshiStreams(self._torch, self._file).encode(pcm[None, None, :])[0]
        return codes

    def decode_file(self, codes: Codes) -> Array:
        """As `Engine.decode_file`."""
        pcm: Array = _MoshiStreams(self._torch, self._file).decode(codes[None])[0, 0]
        return pcm


class _MoshiStreams:
    """Calls of one PyTorch model, numpy in and out."""

    def __init__(self, torch: Any, model: Any) -> None:
        self._torch, self._model = torch, model

    def encode(self, pcm: Array) -> Codes:
        """Rows to codes."""
        with self._torch.no_grad():
            codes: Codes = self._model.encode(self._torch.from_numpy(pcm)).numpy()
        return codes

    def decode(self, codes: Codes) -> Array:
        """Codes to rows."""
        with self._torch.no_grad():
            given = self._torch.from_numpy(codes.astype(np.int64))
            pcm: Array = self._model.decode(given).numpy()
        return pcm


def peers(path: Path | None, num_codebooks: int) -> tuple[list[Engine], dict[str, str]]:
    """Every peer that can be imported and can load `path`; for the others, why not."""
    found: list[Engine] = []
    missing: dict[str, str] = {}
    for peer in (Rustymimi, Moshi):
        if path is None:
            missing[peer.name] = "it needs a file in Kyutai's layout"
            continue
        try:
            found.append(peer(path, num_codebooks))
        except ImportError as error:
            missing[peer.name] = f"not installed ({error.name})"
        except Exception as error:
            missing[peer.name] = f"cannot load the model ({str(error).splitlines()[0]})"
    return found, missing
