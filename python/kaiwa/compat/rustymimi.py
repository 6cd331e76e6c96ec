"""rustymimi's interface over Kaiwa's codec: ``import kaiwa.compat.rustymimi as rustymimi``.

Signatures, shapes and types are those of rustymimi 0.4.1. Its defects are not reproduced:
``reset`` clears everything, streams have no longest length, whole-signal calls leave the streaming
state alone, the attention window is the reference's, and what panics there is a ``ValueError``
here. Beyond it, a ``config.json`` beside the file is followed, every published naming of the
tensors is read, and threads that share an object take turns.
"""

from __future__ import annotations

import operator
import queue
import struct
import sys
import threading
from collections.abc import Callable
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kaiwa.errors import KaiwaError
from kaiwa.mimi import Mimi, MimiStream

__all__ = ["StreamTokenizer", "Tokenizer", "write_wav"]

#: rustymimi's names of types. Half precision is computed in float32: never less exact.
_DTYPES = {"f32": "float32", "f16": "float32", "bf16": "bfloat16"}


def _load(path: Any, num_codebooks: Any, dtype: Any, max_seq_len: Any) -> Mimi:
    if not isinstance(dtype, str):
        raise TypeError(f"argument 'dtype': {type(dtype).__name__!r} object is not a string")
    file = _text_path("path", path)
    books = _unsigned("num_codebooks", num_codebooks, 64)
    if max_seq_len is not None:
        _unsigned("max_seq_len", max_seq_len, 64)
    if not Path(file).is_file():
        raise ValueError(f'path: "{file}" No such file; pass the path of a safetensors file')
    if dtype not in _DTYPES:
        raise ValueError(f"unsupported dtype '{dtype}'; use 'f32', 'f16' or 'bf16'")
    if books == 0:
        raise ValueError("num_codebooks is 0; use at least 1")
    try:
        # rustymimi runs on the processor only.
        return Mimi.from_pretrained(
            Path(file), num_codebooks=books, device="cpu", dtype=_DTYPES[dtype]
        )
    except KaiwaError as error:
        raise ValueError(str(error)) from error


def _unsigned(name: str, value: Any, bits: int) -> int:
    """A whole number in ``0..2**bits``: `TypeError` or `OverflowError` otherwise."""
    try:
        number = operator.index(value)
    except TypeError as error:
        raise TypeError(f"argument '{name}': {error}") from error
    if not 0 <= number < 2**bits:
        raise OverflowError(f"{name} is {number}; use a whole number in 0..2**{bits}")
    return number


def _text_path(name: str, value: Any) -> str:
    """A path as text; `TypeError` for bytes and for what is no path."""
    path = fspath(value)
    if not isinstance(path, str):
        raise TypeError(f"argument '{name}': {type(path).__name__!r} object is not a text path")
    return path


def _typed(name: str, value: Any, dtype: type[np.generic], ndim: int) -> NDArray[Any]:
    """`value` if it is an array of exactly this type and number of axes, else `TypeError`."""
    if not isinstance(value, np.ndarray) or value.dtype != dtype or value.ndim != ndim:
        kind = np.dtype(dtype).name
        raise TypeError(
            f"argument '{name}': {type(value).__name__!r} object cannot be converted to a "
            f"{ndim}-dimensional {kind} array"
        )
    return value


def _contiguous(array: NDArray[Any]) -> NDArray[Any]:
    if not array.flags.c_contiguous:
        raise ValueError("input data is not contiguous; pass numpy.ascontiguousarray(...)")
    return array


class _Encoder:
    """Encoder state in front of which samples wait until a frame is complete."""

    def __init__(self, mimi: Mimi) -> None:
        self._mimi = mimi
        self.reset()

    def reset(self) -> None:
        self._stream: MimiStream | None = None
        self._pending = np.zeros((0, 0), dtype=np.float32)

    def step(self, pcm: NDArray[np.float32]) -> NDArray[np.uint32] | None:
        """``[B, L]`` of any length to ``[B, K, n]``, or ``None`` while no frame is complete."""
        if self._stream is None:
            stream = self._mimi.stream(pcm.shape[0])
            self._pending = np.zeros((pcm.shape[0], 0), dtype=np.float32)
        else:
            stream = self._stream
        if pcm.shape[0] != stream.slots:
            raise ValueError(
                f"shape mismatch: the stream began with a batch of {stream.slots}, this call has "
                f"{pcm.shape[0]}; call reset() first"
            )
        samples = np.concatenate([self._pending, pcm], axis=1)
        whole = samples.shape[1] // self._mimi.frame_size * self._mimi.frame_size
        codes = stream.encode(samples[:, None, :whole]) if whole else None
        # Only now: a refused call must not swallow its samples.
        self._stream, self._pending = stream, samples[:, whole:]
        return None if codes is None else codes.astype(np.uint32)


class _Decoder:
    """Decoder state."""

    def __init__(self, mimi: Mimi) -> None:
        self._mimi = mimi
        self.reset()

    def reset(self) -> None:
        self._stream: MimiStream | None = None

    def step(self, codes: NDArray[np.uint32]) -> NDArray[np.float32] | None:
        """``[B, K, T]`` to ``[B, 1, samples]``, or ``None`` for no columns."""
        _check_rows(codes, self._mimi)
        stream = self._stream or self._mimi.stream(codes.shape[0])
        if codes.shape[0] != stream.slots:
            raise ValueError(
                f"shape mismatch: the stream began with a batch of {stream.slots}, this call has "
                f"{codes.shape[0]}; call reset() first"
            )
        pcm = stream.decode(codes) if codes.shape[2] else None
        self._stream = stream
        return pcm


def _check_rows(codes: NDArray[np.uint32], mimi: Mimi) -> None:
    if codes.shape[1] != mimi.num_codebooks:
        raise ValueError(
            f"mismatch between the number of layers {mimi.num_codebooks} and the code shape "
            f"{list(codes.shape)}; pass [B, {mimi.num_codebooks}, T]"
        )


class Tokenizer:
    """Whole-signal and step-by-step encoding and decoding of batches.

    Args:
        path: A safetensors file of the codec.
        num_codebooks: Rows of codes.
        dtype: ``"f32"``, ``"f16"`` (computed in float32) or ``"bf16"``.
        max_seq_len: Accepted and ignored: there is no longest length.

    Raises:
        ValueError: The file is missing or unfit, or an option has a wrong value.
        TypeError, OverflowError: An option has a wrong type, or is negative.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        num_codebooks: int = 8,
        dtype: str = "f32",
        max_seq_len: int | None = None,
    ) -> None:
        self._mimi = _load(path, num_codebooks, dtype, max_seq_len)
        self._encoder = _Encoder(self._mimi)
        self._decoder = _Decoder(self._mimi)
        self._lock = threading.Lock()

    def encode(self, pcm_data: NDArray[np.float32]) -> NDArray[np.uint32]:
        """float32 ``[B, 1, L]`` to uint32 ``[B, K, ceil(L / 1920)]``."""
        pcm = _contiguous(_typed("pcm_data", pcm_data, np.float32, 3))
        return self._mimi.encode(pcm).astype(np.uint32)

    def encode_step(self, pcm_data: NDArray[np.float32]) -> NDArray[np.uint32] | None:
        """float32 ``[B, 1, L]`` of any length to uint32 ``[B, K, n]``, or ``None`` while no frame
        is complete."""
        pcm = _contiguous(_typed("pcm_data", pcm_data, np.float32, 3))
        if pcm.shape[1] != 1:
            raise ValueError(f"pcm_data has {pcm.shape[1]} channels; pass mono, [B, 1, L]")
        with self._lock:
            return self._encoder.step(pcm[:, 0])

    def decode(self, codes: NDArray[np.uint32]) -> NDArray[np.float32]:
        """uint32 ``[B, K, T]`` to float32 ``[B, 1, 1920 * T]``."""
        rows = _contiguous(_typed("codes", codes, np.uint32, 3))
        _check_rows(rows, self._mimi)
        return self._mimi.decode(rows)

    def decode_step(self, codes: NDArray[np.uint32]) -> NDArray[np.float32] | None:
        """uint32 ``[B, K, T]`` to float32 ``[B, 1, 1920 * T]``, or ``None`` for ``T = 0``."""
        rows = _contiguous(_typed("codes", codes, np.uint32, 3))
        with self._lock:
            return self._decoder.step(rows)

    def reset(self) -> None:
        """Forgets the step-by-step state of both directions."""
        with self._lock:
            self._encoder.reset()
            self._decoder.reset()


class _Worker:
    """A thread that turns queued inputs into queued outputs, in order. It ends with its owner."""

    def __init__(self, name: str, work: Callable[[Any], Any]) -> None:
        inputs: queue.SimpleQueue[Any] = queue.SimpleQueue()
        outputs: queue.SimpleQueue[Any] = queue.SimpleQueue()

        def run() -> None:
            while (item := inputs.get()) is not _STOP:
                try:
                    result = work(item)
                except Exception as error:  # the message is dropped, the worker goes on
                    print(f"error in {name} thread {error}", file=sys.stderr)
                    continue
                if result is not None:
                    outputs.put(result)

        self.inputs, self.outputs = inputs, outputs
        threading.Thread(target=run, name=f"kaiwa-{name}", daemon=True).start()

    def ready(self) -> Any:
        """The next output, or ``None``; never waits."""
        try:
            return self.outputs.get_nowait()
        except queue.Empty:
            return None

    def __del__(self) -> None:
        self.inputs.put(_STOP)


_STOP = object()


class StreamTokenizer:
    """Encoding and decoding of one stream in two background threads.

    Arguments and errors of the constructor are those of :class:`Tokenizer`. Errors in a thread go
    to standard error; the message is dropped and the thread goes on.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        num_codebooks: int = 8,
        dtype: str = "f32",
        max_seq_len: int | None = None,
    ) -> None:
        mimi = _load(path, num_codebooks, dtype, max_seq_len)
        encoder, decoder = _Encoder(mimi), _Decoder(mimi)

        def encode(pcm: NDArray[np.float32]) -> NDArray[np.uint32] | None:
            codes = encoder.step(pcm[None])
            return None if codes is None else codes[0]

        def decode(codes: NDArray[np.uint32]) -> NDArray[np.float32] | None:
            pcm = decoder.step(codes[:, :, None])
            return None if pcm is None else pcm[0, 0]

        self._encoder = _Worker("encoder", encode)
        self._decoder = _Worker("decoder", decode)

    def encode(self, pcm_data: NDArray[np.float32]) -> None:
        """Queues float32 ``[L]`` (copied)."""
        self._encoder.inputs.put(_typed("pcm_data", pcm_data, np.float32, 1).copy())

    def get_encoded(self) -> NDArray[np.uint32] | None:
        """uint32 ``[K, n]`` of one queued input that completed frames, or ``None``."""
        ready: NDArray[np.uint32] | None = self._encoder.ready()
        return ready

    def decode(self, codes: NDArray[np.uint32]) -> None:
        """Queues uint32 ``[1, K]``: one frame, the transpose of what `get_encoded` gives."""
        self._decoder.inputs.put(_contiguous(_typed("codes", codes, np.uint32, 2)).copy())

    def get_decoded(self) -> NDArray[np.float32] | None:
        """float32 ``[1920]`` of one queued frame, or ``None``."""
        ready: NDArray[np.float32] | None = self._decoder.ready()
        return ready


def write_wav(filename: str | PathLike[str], data: NDArray[np.float32], sample_rate: int) -> None:
    """Writes float32 ``[N]`` as 16-bit mono WAV: clamped to -1..1, times 32767, truncated toward
    zero; NaN becomes 0.

    Raises:
        TypeError: Not a one-dimensional float32 array.
        OverflowError: `sample_rate` is outside ``0..2**32``.
        ValueError: The file cannot be written.
    """
    samples = _typed("data", data, np.float32, 1)
    path = _text_path("filename", filename)
    rate = _unsigned("sample_rate", sample_rate, 32)
    scaled = np.nan_to_num(np.clip(samples, -1.0, 1.0), nan=0.0) * np.float32(32767)
    body = scaled.astype("<i2").tobytes()
    if len(body) >= 2**32 - 36:
        raise ValueError(f"{len(samples)} samples do not fit into one WAV file; write several")
    # One channel of 16 bits: 2 bytes a frame. The byte rate wraps where it does not fit.
    form = struct.pack("<HHIIHH", 1, 1, rate, 2 * rate % 2**32, 2, 16)
    header = b"RIFF" + struct.pack("<I", 36 + len(body)) + b"WAVEfmt " + struct.pack("<I", 16)
    try:
        with Path(path).open("wb") as file:
            file.write(header + form + b"data" + struct.pack("<I", len(body)))
            file.write(body)
    except OSError as error:
        raise ValueError(f'"{path}": {error}') from error
