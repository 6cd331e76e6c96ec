"""Files of codes: a safetensors file with one tensor and metadata (docs/codes-format.md)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kaiwa import _safetensors, _streams
from kaiwa.errors import InputError

#: Value of `format` in the metadata.
FORMAT = "kaiwa-codes"

#: Version this module writes, and the newest it reads.
VERSION = 1


@dataclass(frozen=True)
class CodesInfo:
    """What a file of codes says about them.

    Attributes:
        sample_rate: of the audio they decode to, in Hz.
        frame_rate: code columns per second.
        frame_size: samples per column.
        num_samples: samples of the encoded audio; decoding trims to it.
        num_codebooks: rows.
        cardinality: codes are 0 to this minus 1.
        model: where the encoder's weights came from, for people.
        version: version of the file format.
    """

    sample_rate: int
    frame_rate: float
    frame_size: int
    num_samples: int
    num_codebooks: int
    cardinality: int
    model: str = ""
    version: int = VERSION

    @property
    def frames(self) -> int:
        """Columns that `num_samples` need."""
        return -(-self.num_samples // self.frame_size)

    @property
    def seconds(self) -> float:
        """Length of the audio."""
        return self.num_samples / self.sample_rate


def write(path: str | os.PathLike[str], codes: NDArray[Any], info: CodesInfo) -> None:
    """Writes codes `[num_codebooks, frames]` of any integer type.

    Raises:
        InputError: the codes do not fit what `info` says about them.
    """
    if info.cardinality > 1 << 16:
        raise InputError(f"cardinality is {info.cardinality}; the format holds up to 65536")
    if codes.shape != (info.num_codebooks, info.frames):
        raise InputError(
            f"codes have shape {list(codes.shape)}, but {info.num_samples} samples need "
            f"[{info.num_codebooks}, {info.frames}]"
        )
    if codes.size and (int(codes.min()) < 0 or int(codes.max()) >= info.cardinality):
        raise InputError(f"codes must lie in 0 to {info.cardinality - 1}")
    metadata = {
        "format": FORMAT,
        "version": str(info.version),
        "sample_rate": str(info.sample_rate),
        "frame_rate": repr(info.frame_rate),
        "frame_size": str(info.frame_size),
        "num_samples": str(info.num_samples),
        "num_codebooks": str(info.num_codebooks),
        "cardinality": str(info.cardinality),
        "model": info.model,
    }
    shape = (int(codes.shape[0]), int(codes.shape[1]))
    _safetensors.write(path, {"codes": ("U16", shape)}, [codes.astype("<u2")], metadata)


def is_codes(path: str | os.PathLike[str]) -> bool:
    """Whether a file is safetensors and says that it holds codes; its name does not matter."""
    try:
        _, metadata, _ = _safetensors.read_header(Path(path))
    except _safetensors.FormatError:
        return False
    return metadata.get("format") == FORMAT


def read_info(path: str | os.PathLike[str]) -> CodesInfo:
    """Reads and checks the header of a file of codes.

    Raises:
        InputError: there is no such file, it is of another kind, or it contradicts itself.
    """
    with _streams.as_file(path) as file:
        return _open(file, _streams.name_of(path))[0]


def read(path: str | os.PathLike[str]) -> tuple[NDArray[np.int32], CodesInfo]:
    """Codes `[num_codebooks, frames]` and what the file says about them. `-` is standard input;
    pipes are read, too.

    Raises:
        InputError: as for `read_info`, or a code is out of range.
    """
    name = _streams.name_of(path)
    with _streams.as_file(path) as file_path:
        info, position = _open(file_path, name)
        count = info.num_codebooks * info.frames
        with file_path.open("rb") as file:
            file.seek(position)
            stored = np.frombuffer(file.read(2 * count), dtype="<u2")
    codes = stored.reshape(info.num_codebooks, info.frames).astype(np.int32)
    if (codes >= info.cardinality).any():
        book, frame = (int(i) for i in np.argwhere(codes >= info.cardinality)[0])
        raise InputError(
            f"{name} is damaged: code {codes[book, frame]} in codebook {book}, frame {frame} is "
            f"not below the cardinality {info.cardinality}; encode the audio again"
        )
    return codes, info


def _open(path: Path, name: str) -> tuple[CodesInfo, int]:
    """The checked header, and the position of the first code in the file; `name` is what to call
    it."""
    if not path.is_file():
        kind = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"the file of codes {name} {kind}; check the path")
    try:
        tensors, metadata, start = _safetensors.read_header(path)
    except _safetensors.FormatError as error:
        raise InputError(
            f"{name} is not a file of codes: {error}; give a file that `kaiwa encode` wrote"
        ) from None
    if metadata.get("format") != FORMAT:
        raise InputError(
            f"{name} is a safetensors file without codes (no format {FORMAT!r} in its metadata); "
            "give a file that `kaiwa encode` wrote"
        )
    info = _parse(name, metadata)
    entry = tensors.get("codes")
    wanted = (info.num_codebooks, info.frames)
    if entry is None or entry.dtype != "U16" or entry.shape != wanted:
        found = "missing" if entry is None else f"{entry.dtype} {list(entry.shape)}"
        raise InputError(
            f"{name} is damaged: its metadata asks for codes U16 {list(wanted)}, they are {found}; "
            "encode the audio again"
        )
    return info, start + entry.begin


def _parse(path: str, metadata: dict[str, str]) -> CodesInfo:
    """Metadata as numbers within sane limits."""

    def number(name: str, low: float, high: float) -> float:
        text = metadata.get(name)
        try:
            value = float(text) if text is not None and len(text) < 40 else float("nan")
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise InputError(
                f"{path} is damaged: {name} is {text!r} in its metadata; encode the audio again"
            )
        return value

    version = number("version", 1, 1e6)
    if version > VERSION:
        raise InputError(
            f"{path} has version {version:g} of the format, this program reads up to {VERSION}; "
            "update kaiwa"
        )
    info = CodesInfo(
        sample_rate=int(number("sample_rate", 1, 1e6)),
        frame_rate=number("frame_rate", 1e-3, 1e5),
        frame_size=int(number("frame_size", 1, 1e8)),
        num_samples=int(number("num_samples", 1, 1e15)),
        num_codebooks=int(number("num_codebooks", 1, 4096)),
        cardinality=int(number("cardinality", 1, 1 << 16)),
        model=metadata.get("model", ""),
        version=int(version),
    )
    return info
