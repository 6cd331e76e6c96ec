"""Kaiwa: full-duplex speech models as batched, streaming inference.

>>> import kaiwa
>>> mimi = kaiwa.Mimi.from_pretrained("kyutai/mimi")  # doctest: +SKIP
>>> codes = mimi.encode(pcm)  # doctest: +SKIP
"""

from __future__ import annotations

from kaiwa._native import build_info as _build_info
from kaiwa.duplex import Duplex, DuplexOutput
from kaiwa.errors import (
    AudioFileError,
    CheckpointError,
    CheckpointNotFoundError,
    DeviceError,
    DownloadError,
    InputError,
    KaiwaError,
)
from kaiwa.mimi import Mimi, MimiStream
from kaiwa.moshi import LmConfig, Moshi, MoshiStream, Sampling, StepOutput
from kaiwa.resampler import Resampler
from kaiwa.text import TextStream, Tokenizer

__version__ = _build_info()["version"]

__all__ = [
    "AudioFileError",
    "CheckpointError",
    "CheckpointNotFoundError",
    "DeviceError",
    "DownloadError",
    "Duplex",
    "DuplexOutput",
    "InputError",
    "KaiwaError",
    "LmConfig",
    "Mimi",
    "MimiStream",
    "Moshi",
    "MoshiStream",
    "Resampler",
    "Sampling",
    "StepOutput",
    "TextStream",
    "Tokenizer",
    "__version__",
]
