"""Writing safetensors files piece by piece, and reading small ones.

The format: eight bytes with the header's length (little endian), the header as JSON, then the
tensors' bytes one after another. Checkpoints are read by the compiled half; this module writes
random checkpoints without holding them in memory, and reads and writes files of codes.
docs/architecture.md ("Written by hand, and why") says why the package `safetensors` does not.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Bytes an element takes, by the name the format gives its type.
ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "U16": 2, "I32": 4, "I64": 8, "U8": 1}

#: Longest header this module reads. Headers written by Kaiwa are below 64 KiB.
MAX_HEADER = 8 << 20


@dataclass(frozen=True)
class TensorEntry:
    """One tensor in a file: type, shape, and its bytes `begin..end` behind the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class FormatError(ValueError):
    """The bytes are not a safetensors file; the text says what is wrong with them."""


def write(
    path: str | os.PathLike[str],
    layout: Mapping[str, tuple[str, tuple[int, ...]]],
    tensors: Iterable[NDArray[Any]],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes a file whose tensors come one at a time.

    Args:
        path: where to write; an existing file is overwritten in place.
        layout: name to (type, shape), in the order in which `tensors` gives the values.
        tensors: one array for each entry, already in the bytes to be stored.
        metadata: strings for the header.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    sizes = []
    for name, (dtype, shape) in layout.items():
        size = ITEM_BYTES[dtype] * int(np.prod(shape, dtype=np.int64))
        header[name] = {
            "dtype": dtype,
            "shape": list(shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
        sizes.append((name, size))
    text = json.dumps(header, ensure_ascii=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with Path(path).open("wb") as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        for (name, size), tensor in zip(sizes, tensors, strict=True):
            flat = np.ascontiguousarray(tensor).reshape(-1)
            if flat.nbytes != size:
                raise ValueError(f"tensor {name} has {flat.nbytes} bytes instead of {size}")
            file.write(flat.view(np.uint8).data)


def read_header(path: str | os.PathLike[str]) -> tuple[dict[str, TensorEntry], dict[str, str], int]:
    """Tensors, metadata, and the position of the first tensor byte.

    Raises:
        FormatError: the file is too short, the header is no valid JSON, or an entry does not fit.
        OSError: the file cannot be read.
    """
    with Path(path).open("rb") as file:
        total = os.fstat(file.fileno()).st_size
        first = file.read(8)
        if len(first) < 8:
            raise FormatError(f"it has only {len(first)} bytes")
        (length,) = struct.unpack("<Q", first)
        if length > min(MAX_HEADER, total - 8):
            raise FormatError("it does not start like one, or is cut off inside its header")
        text = file.read(length)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        raise FormatError("its header is not valid JSON") from None
    if not isinstance(header, dict):
        raise FormatError("its header is not a JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise FormatError("its metadata is not a table of strings")
    start = 8 + length
    entries = {name: _entry(name, value, total - start) for name, value in header.items()}
    return entries, metadata, start


def _entry(name: str, value: Any, limit: int) -> TensorEntry:
    """Checks one header entry against the bytes that are there."""
    try:
        dtype, shape, (begin, end) = value["dtype"], tuple(value["shape"]), value["data_offsets"]
        numbers = (*shape, begin, end)
        if not all(type(n) is int and n >= 0 for n in numbers) or not isinstance(dtype, str):
            raise TypeError
    except (TypeError, KeyError, ValueError):
        raise FormatError(f"the entry of tensor {name!r} is malformed") from None
    if not begin <= end <= limit:
        raise FormatError(f"tensor {name!r} lies outside the file: it may be cut off")
    size = ITEM_BYTES.get(dtype)
    count = 1
    for n in shape:
        count *= n
    if size is not None and end - begin != size * count:
        raise FormatError(f"tensor {name!r} has {end - begin} bytes, its shape asks for another")
    return TensorEntry(dtype, shape, begin, end)


def to_bytes_of(values: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    """float32 values as stored in `dtype` (F32, F16, or BF16 rounded to nearest even)."""
    if dtype == "F32":
        return values.astype("<f4", copy=False)
    if dtype == "F16":
        return values.astype("<f2")
    if dtype == "BF16":
        bits = np.ascontiguousarray(values, dtype="<f4").view("<u4")
        rounded: NDArray[Any] = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
        return rounded
    raise ValueError(f"unsupported tensor type {dtype}")
