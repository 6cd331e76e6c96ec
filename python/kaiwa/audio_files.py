"""Audio files in and out, block by block, through libsndfile.

Reading gives mono float32 at the file's own rate (channels are averaged); writing takes mono
float32. Rates are changed by `kaiwa.Resampler`, not here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kaiwa.errors import AudioFileError, InputError

Array = NDArray[np.float32]

#: Samples a reader gives at once.
BLOCK = 1 << 16


@dataclass(frozen=True)
class OutputFormat:
    """The format that a file ending stands for: libsndfile's names for it, and the sample rates in
    Hz that it can hold (None: any)."""

    container: str
    subtype: str
    rates: tuple[int, ...] | None = None

    @property
    def sample_formats(self) -> dict[str, str]:
        """The values of `--sample-format` that this format allows, with libsndfile's names."""
        if self.container == "WAV":
            return {"int16": "PCM_16", "int24": "PCM_24", "float32": "FLOAT"}
        if self.container == "FLAC":
            return {"int16": "PCM_16", "int24": "PCM_24"}
        return {}


_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_OPUS_RATES = (8000, 12000, 16000, 24000, 48000)

#: What can be written, by the file's ending. More kinds can be read.
OUTPUT_FORMATS = {
    ".wav": OutputFormat("WAV", "PCM_16"),
    ".flac": OutputFormat("FLAC", "PCM_16"),
    ".mp3": OutputFormat("MP3", "MPEG_LAYER_III", _MP3_RATES),
    ".ogg": OutputFormat("OGG", "VORBIS"),
    ".oga": OutputFormat("OGG", "VORBIS"),
    ".opus": OutputFormat("OGG", "OPUS", _OPUS_RATES),
}


def _soundfile() -> Any:
    """The soundfile module, imported late: it loads a shared library."""
    try:
        import soundfile
    except (ImportError, OSError) as error:
        raise AudioFileError(
            f"reading and writing audio files needs the soundfile package ({error}); "
            "install it with: pip install soundfile"
        ) from None
    return soundfile


class AudioWriteError(AudioFileError):
    """An audio file cannot be written although the arguments are right: the disk is full, say."""


class AudioReader:
    """An audio file open for reading; a context manager.

    Attributes:
        sample_rate: samples per second.
        channels: channels in the file; `blocks` averages them.
        frames: samples per channel as the file declares them (an estimate for some mp3 files).
        format: container and encoding in words.

    Raises:
        AudioFileError: there is no such file, or libsndfile cannot read it as audio.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        soundfile = _soundfile()
        self._error = soundfile.LibsndfileError
        self.path = Path(path)
        if not self.path.is_file():
            kind = "is a folder" if self.path.is_dir() else "does not exist"
            raise AudioFileError(f"the audio file {self.path} {kind}; check the path")
        try:
            self._file = soundfile.SoundFile(os.fspath(self.path))
        except (self._error, OSError, TypeError) as error:
            reason = getattr(error, "error_string", str(error)).rstrip(".")
            raise AudioFileError(
                f"{self.path} cannot be read as audio ({reason}); give a wav, flac, mp3, "
                "ogg or opus file"
            ) from None
        self.sample_rate = int(self._file.samplerate)
        self.channels = int(self._file.channels)
        self.frames = int(self._file.frames)
        self.format = f"{self._file.format_info}, {self._file.subtype_info}"
        self._container = str(self._file.format)

    def blocks(self) -> Iterator[Array]:
        """The signal from its start in mono blocks `[at most BLOCK]`.

        Raises:
            AudioFileError: the file breaks off, or holds values that are not finite.
        """
        done = 0
        while True:
            try:
                block: Array = self._file.read(BLOCK, dtype="float32", always_2d=True)
            except (self._error, RuntimeError) as error:
                reason = getattr(error, "error_string", str(error)).rstrip(".")
                raise AudioFileError(
                    f"{self.path} breaks off at {done / self.sample_rate:.2f} s ({reason}); "
                    "the file is damaged; convert or download it again"
                ) from None
            if len(block) == 0:
                break
            mono = block[:, 0] if self.channels == 1 else block.mean(axis=1, dtype=np.float32)
            if not np.isfinite(mono).all():
                at = done + int(np.flatnonzero(~np.isfinite(mono))[0])
                raise AudioFileError(
                    f"{self.path} holds a value that is not finite at sample {at}; "
                    "repair the file before encoding it"
                )
            done += len(mono)
            yield np.ascontiguousarray(mono)
        if done < self.frames and self._container in ("WAV", "FLAC", "WAVEX", "RF64", "AIFF"):
            raise AudioFileError(
                f"{self.path} ends after {done} of {self.frames} samples; the file is cut off "
                "or damaged; download it again"
            )

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def __enter__(self) -> AudioReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class AudioWriter:
    """An audio file open for writing mono audio; a context manager.

    Args:
        path: file to write, overwritten if it exists.
        sample_rate: samples per second.
        sample_format: "int16", "int24" or "float32" where the format allows a choice.

    Attributes:
        clipped: samples outside [-1, 1] so far. They are clipped unless the file holds floats.

    Raises:
        InputError: the ending, rate or sample format is not supported.
        AudioWriteError: libsndfile cannot write the file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        sample_rate: int,
        sample_format: str | None = None,
    ) -> None:
        self.path = Path(path)
        chosen = output_format(self.path, sample_rate, sample_format)
        soundfile = _soundfile()
        self._error = soundfile.LibsndfileError
        self.clipped = 0
        self._limit = chosen.subtype != "FLOAT"
        try:
            self._file = soundfile.SoundFile(
                os.fspath(self.path),
                "w",
                samplerate=sample_rate,
                channels=1,
                format=chosen.container,
                subtype=chosen.subtype,
            )
        except (self._error, OSError) as error:
            raise self._failure(error) from None

    def _failure(self, error: Exception) -> AudioWriteError:
        """The error for a file that cannot be written."""
        reason = getattr(error, "error_string", str(error)).rstrip(".")
        return AudioWriteError(
            f"cannot write the audio file ({reason or 'the encoder took a part only'}); "
            "check the space on disk"
        )

    def write(self, pcm: Array) -> None:
        """Appends samples `[n]`.

        Raises:
            AudioWriteError: the disk is full, or the encoder failed.
        """
        if self._limit:
            outside = int(np.count_nonzero(np.abs(pcm) > 1.0))
            if outside:
                self.clipped += outside
                pcm = np.clip(pcm, -1.0, 1.0)
        try:
            self._file.write(pcm)
        except (self._error, RuntimeError, AssertionError) as error:
            raise self._failure(error) from None

    def close(self) -> None:
        """Finishes the file.

        Raises:
            AudioWriteError: what was left could not be written.
        """
        try:
            self._file.close()
        except (self._error, RuntimeError) as error:
            raise self._failure(error) from None

    def __enter__(self) -> AudioWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


#: Most bytes of samples in a wav file: its sizes are 32-bit numbers.
WAV_LIMIT = (1 << 32) - (1 << 16)


def check_length(
    path: str | os.PathLike[str], samples: int, sample_format: str | None = None
) -> None:
    """Raises InputError if a `.wav` file cannot hold `samples` mono samples."""
    size = {"float32": 4, "int24": 3}.get(sample_format or "", 2) * samples
    if Path(path).suffix.lower() == ".wav" and size > WAV_LIMIT:
        raise InputError(
            f"{path} would need {size / 2**30:.1f} GiB, a wav file holds 4; write a .flac instead"
        )


def output_format(
    path: str | os.PathLike[str], sample_rate: int, sample_format: str | None = None
) -> OutputFormat:
    """The format a path's ending stands for, checked against the rate.

    Raises:
        InputError: the ending, rate or sample format is not supported.
    """
    ending = Path(path).suffix.lower()
    known = ", ".join(OUTPUT_FORMATS)
    if ending not in OUTPUT_FORMATS:
        raise InputError(
            f"cannot tell an audio format from {str(path)!r}; end it in one of {known}"
        )
    chosen = OUTPUT_FORMATS[ending]
    if chosen.rates is not None and sample_rate not in chosen.rates:
        allowed = ", ".join(map(str, chosen.rates))
        raise InputError(f"{ending} files cannot have {sample_rate} Hz; choose a rate of {allowed}")
    if not 1000 <= sample_rate <= 384_000:
        raise InputError(f"the rate is {sample_rate} Hz; choose 1000 to 384000")
    if sample_format is None:
        return chosen
    subtypes = chosen.sample_formats
    if sample_format not in subtypes:
        choices = ", ".join(subtypes) or "no choice"
        raise InputError(
            f"{ending} files cannot hold {sample_format} samples ({choices}); "
            "leave the sample format out or write a .wav"
        )
    return OutputFormat(chosen.container, subtypes[sample_format], chosen.rates)
