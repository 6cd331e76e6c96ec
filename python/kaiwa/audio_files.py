"""Audio files in and out, block by block, through libsndfile.

Reading gives float32 at the file's own rate, mono (channels are averaged) or by channel; writing
takes mono float32. Rates are changed by `kaiwa.Resampler`, not here.
"""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from kaiwa import _streams, containers
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


#: Floats beyond this are no audio: full scale is 1, and no recorder overshoots by 24 dB. Integers
#: that were stored as floats are.
LOUDEST = 16.0
#: A mean of channels this much quieter than the loudest of them has cancelled out.
_CANCELLED = 0.01


def _say(text: str) -> None:
    warnings.warn(text, stacklevel=3)


class AudioReader:
    """An audio file open for reading; a context manager.

    Files that were joined are read one after the other, files whose writer did not come to an
    end as far as they go.

    Args:
        path: a file; ``-`` is standard input. What cannot be read twice (pipes, devices) is
            copied to a temporary file first.
        warn: told in a sentence what is odd about the file; by default a Python warning.

    Attributes:
        sample_rate: samples per second.
        channels: channels in the file; `blocks` averages them.
        frames: samples per channel as the file declares them, `None` where it does not know (an
            estimate for some mp3 files).
        format: container and encoding in words.

    Raises:
        AudioFileError: there is no such file, it is cut off, or it is no audio that libsndfile can
            read.
    """

    def __init__(self, path: str | os.PathLike[str], warn: Callable[[str], None] = _say) -> None:
        self._soundfile = _soundfile()
        self._error = self._soundfile.LibsndfileError
        self._warn = warn
        self.name = _streams.name_of(path)
        self._source = _opened(path, self.name)
        try:
            size = self._source.seek(0, os.SEEK_END)
            found = containers.layout(self._source, size)
            if found.fault is not None:
                raise AudioFileError(f"{self.name} {found.fault}")
            self._recordings = found.recordings
            self._file = self._open(0)
        except BaseException:
            self._source.close()
            raise
        for text in found.warnings:
            warn(f"{self.name} {text}")
        self.sample_rate = int(self._file.samplerate)
        self.channels = int(self._file.channels)
        declared = int(self._file.frames)
        #: More samples than bits in the file is no length but a way to say that it is not known.
        sane = 0 < declared <= 64 * size or declared == 0 == size
        one = len(self._recordings) == 1
        self.frames: int | None = declared if sane and one else None
        self._exact = self.frames if found.known_length else None
        self.format = f"{self._file.format_info}, {self._file.subtype_info}"
        self._floats = str(self._file.subtype) in ("FLOAT", "DOUBLE")

    def _open(self, number: int) -> Any:
        """The recording of a number, open."""
        view = containers.Pieces(self._source, self._recordings[number])
        try:
            return self._soundfile.SoundFile(view)
        except (self._error, OSError, TypeError) as error:
            reason = getattr(error, "error_string", str(error)).rstrip(".")
            raise AudioFileError(
                f"{self.name} cannot be read as audio ({reason}); give a wav, flac, mp3, "
                "ogg or opus file"
            ) from None

    def blocks(self) -> Iterator[Array]:
        """The signal from its start in mono blocks `[at most BLOCK]`.

        Raises:
            AudioFileError: the file breaks off, or holds values that are not finite or no audio.
        """
        loudest, mean_loudest = 0.0, 0.0
        for block in self.channel_blocks():
            mono = block[:, 0] if self.channels == 1 else block.mean(axis=1, dtype=np.float32)
            if self.channels > 1:
                loudest = max(loudest, float(np.abs(block).max()))
                mean_loudest = max(mean_loudest, float(np.abs(mono).max()))
            yield np.ascontiguousarray(mono)
        if mean_loudest < _CANCELLED * loudest:
            self._warn(
                f"{self.name}: its {self.channels} channels cancel each other out when they are "
                "averaged; give one of them alone (sox IN OUT remix 1)"
            )

    def channel_blocks(self) -> Iterator[Array]:
        """The signal from its start in blocks `[at most BLOCK, channels]`.

        Raises:
            AudioFileError: the file breaks off, or holds values that are not finite or no audio.
        """
        done = 0
        for number in range(len(self._recordings)):
            if number:
                self._next(number)
            for block in self._read(done):
                self._check(block, done)
                done += len(block)
                yield block
        if self._exact is not None and done < self._exact:
            raise AudioFileError(
                f"{self.name} ends after {done} of {self._exact} samples; the file is cut off "
                "or damaged; download it again"
            )

    def _read(self, done: int) -> Iterator[Array]:
        """Blocks `[n, channels]` of the recording that is open."""
        while True:
            try:
                block: Array = self._file.read(BLOCK, dtype="float32", always_2d=True)
            except (self._error, RuntimeError) as error:
                reason = getattr(error, "error_string", str(error)).rstrip(".")
                raise AudioFileError(
                    f"{self.name} breaks off at {done / self.sample_rate:.2f} s ({reason}); "
                    "the file is damaged; convert or download it again"
                ) from None
            if len(block) == 0:
                return
            done += len(block)
            yield block

    def _next(self, number: int) -> None:
        """Goes on to the next of several recordings."""
        self._file.close()
        self._file = self._open(number)
        form = (int(self._file.samplerate), int(self._file.channels))
        if form != (self.sample_rate, self.channels):
            raise AudioFileError(
                f"{self.name} joins recordings of different kinds: {self.sample_rate} Hz with "
                f"{self.channels} channels, then {form[0]} Hz with {form[1]}; cut it into files"
            )

    def _check(self, block: Array, done: int) -> None:
        """Refuses values that are no audio."""
        peak = float(np.abs(block).max())
        if peak <= LOUDEST:
            return
        rows = np.abs(block).max(axis=1)
        if not np.isfinite(peak):
            at = done + int(np.flatnonzero(~np.isfinite(rows))[0])
            raise AudioFileError(
                f"{self.name} holds a value that is not finite at sample {at}; "
                "repair the file first"
            )
        if not self._floats:
            return
        at = done + int(np.flatnonzero(rows > LOUDEST)[0])
        hint = "; integers stored as floats? divide them by 32768" if peak <= 32768 else ""
        raise AudioFileError(
            f"{self.name} holds {rows[at - done]:.6g} at sample {at}, but floats in an audio file "
            f"lie between -1 and 1{hint}; repair the file first"
        )

    def frames_at(self, rate: int, size: int = 1) -> int | None:
        """Frames of `size` samples at another rate that the file makes; None if unknown."""
        if self.frames is None:
            return None
        return -(-self.frames * rate // (self.sample_rate * size))

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
        self._source.close()

    def __enter__(self) -> AudioReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _opened(path: str | os.PathLike[str], name: str) -> BinaryIO:
    """A file to read and seek in."""
    if not _streams.is_stream(path):
        where = Path(path)
        if not where.exists() or where.is_dir():
            kind = "is a folder" if where.is_dir() else "does not exist"
            raise AudioFileError(f"the audio file {name} {kind}; check the path")
    try:
        return _streams.opened(path)
    except OSError as error:
        raise AudioFileError(f"{name} cannot be read ({error.strerror})") from None


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
                # As bytes: a name may hold some that are no text.
                os.fspath(self.path) if sys.platform == "win32" else os.fsencode(self.path),
                "w",
                samplerate=sample_rate,
                channels=1,
                format=chosen.container,
                subtype=chosen.subtype,
            )
        except (self._error, OSError) as error:
            raise self._failure(error) from None

    def _failure(self, error: Exception) -> AudioWriteError:
        """The error for a file that cannot be written. libsndfile does not say that a disk is
        full, so that is tried."""
        try:
            with tempfile.TemporaryFile(dir=self.path.parent) as probe:
                probe.write(bytes(1 << 16))
                probe.flush()
        except OSError as found:
            return AudioWriteError(
                f"cannot write the audio file ({found.strerror or found}); make room, or choose "
                "another place"
            )
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
    path: str | os.PathLike[str], samples: int | None, sample_format: str | None = None
) -> None:
    """Raises InputError if a `.wav` file cannot hold `samples` mono samples."""
    if samples is None:
        return
    size = {"float32": 4, "int24": 3}.get(sample_format or "", 2) * samples
    if ending_of(path) == ".wav" and size > WAV_LIMIT:
        raise InputError(
            f"{path} would need {size / 2**30:.1f} GiB, a wav file holds 4; write a .flac instead"
        )


def ending_of(path: str | os.PathLike[str]) -> str:
    """The ending that says the format of an audio file to write; what goes to standard output
    (`-`) is a wav."""
    return ".wav" if os.fspath(path) == _streams.STANDARD else Path(path).suffix.lower()


def output_format(
    path: str | os.PathLike[str], sample_rate: int, sample_format: str | None = None
) -> OutputFormat:
    """The format a path's ending stands for, checked against the rate.

    Raises:
        InputError: the ending, rate or sample format is not supported.
    """
    ending = ending_of(path)
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
