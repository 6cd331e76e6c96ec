"""Kaiwa: full-duplex speech models (Moshi and the Mimi codec), batched and streaming.

A full-duplex model listens and speaks at the same time: every 80 ms it takes a frame of the
caller's audio and gives a frame of its own, with the text of what it says.

- :class:`Engine` runs many conversations over one model; this is what the server is built on.
- :class:`SpeechToText` writes down what it hears, of a recording or as it is spoken.
- :class:`Duplex` is the same model one step at a time: audio in, audio and text out.
- :class:`Moshi` and :class:`Mimi` are its parts, the language model and the audio codec.

>>> import kaiwa
>>> mimi = kaiwa.Mimi.from_pretrained("kyutai/mimi")  # doctest: +SKIP
>>> codes = mimi.encode(pcm)  # doctest: +SKIP
"""

from __future__ import annotations

try:
    from kaiwa._native import OggOpusReader, OggOpusWriter
    from kaiwa._native import build_info as _build_info
except ImportError as _error:
    if "libcuda" not in str(_error):
        raise
    raise ImportError(
        "this build of kaiwa is for NVIDIA GPUs and finds no driver (libcuda.so.1): install it, "
        "start the container with `--gpus all`, or install the build for processors"
    ) from _error
from kaiwa.duplex import Duplex, DuplexOutput
from kaiwa.engine import Engine, Readiness
from kaiwa.errors import (
    AudioFileError,
    CapacityError,
    CheckpointError,
    CheckpointNotFoundError,
    ClosedError,
    DeviceError,
    DownloadError,
    InputError,
    KaiwaError,
    ServerError,
)
from kaiwa.mimi import Mimi, MimiStream
from kaiwa.moshi import LmConfig, Moshi, MoshiStream, Sampling, StepOutput
from kaiwa.resampler import Resampler
from kaiwa.session import (
    AsyncSession,
    AudioEvent,
    BlockingSession,
    EndEvent,
    Event,
    StateEvent,
    StepEvent,
    TextEvent,
)
from kaiwa.speech_to_text import SpeechToText, SpeechToTextOutput, SpeechToTextStream
from kaiwa.text import TextStream, Tokenizer
from kaiwa.words import Word, WordEndEvent, WordEvent

__version__ = _build_info()["version"]

__all__ = [
    "AsyncSession",
    "AudioEvent",
    "AudioFileError",
    "BlockingSession",
    "CapacityError",
    "CheckpointError",
    "CheckpointNotFoundError",
    "ClosedError",
    "DeviceError",
    "DownloadError",
    "Duplex",
    "DuplexOutput",
    "EndEvent",
    "Engine",
    "Event",
    "InputError",
    "KaiwaError",
    "LmConfig",
    "Mimi",
    "MimiStream",
    "Moshi",
    "MoshiStream",
    "OggOpusReader",
    "OggOpusWriter",
    "Readiness",
    "Resampler",
    "Sampling",
    "ServerError",
    "SpeechToText",
    "SpeechToTextOutput",
    "SpeechToTextStream",
    "StateEvent",
    "StepEvent",
    "StepOutput",
    "TextEvent",
    "TextStream",
    "Tokenizer",
    "Word",
    "WordEndEvent",
    "WordEvent",
    "__version__",
]
