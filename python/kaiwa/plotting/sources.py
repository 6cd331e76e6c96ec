"""The sides of a call from files: recordings and files of codes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from pathlib import Path

import numpy as np

from kaiwa import _streams, codes_file
from kaiwa.audio_files import AudioReader
from kaiwa.errors import InputError
from kaiwa.mimi import Mimi
from kaiwa.plotting.call import Side
from kaiwa.plotting.coding import Codes, Encoder
from kaiwa.plotting.sound import Listener

#: Called with the number of samples that were read since the last call.
Advance = Callable[[int], object]
#: Told in a sentence what is odd about a file.
Warn = Callable[[str], None]


@dataclass(frozen=True)
class Part:
    """What is drawn of a call: from a second to another."""

    start: float = 0.0
    end: float = inf

    @property
    def whole(self) -> bool:
        """Whether the call is drawn to its end."""
        return self.end == inf


def sides_of(
    path: str | os.PathLike[str],
    names: tuple[str, str],
    alone: str,
    part: Part,
    *,
    mimi: Mimi | None = None,
    advance: Advance = lambda count: None,
    warn: Warn = lambda text: None,
) -> list[Side]:
    """The sides in a file: one, or two of a recording with two channels.

    Args:
        path: a recording, or a file of codes; ``-`` is a recording from standard input.
        names: what to call the two channels of a recording that has two.
        alone: what to call one alone.
        part: of the call.
        mimi: the codec, if codes of recordings are wanted.
        advance: told of progress.
        warn: told of oddities.

    Raises:
        AudioFileError, InputError: there is no such file, or it cannot be drawn.
    """
    if holds_codes(path):
        return [_coded(path, alone, part)]
    with AudioReader(path, warn) as reader:
        return _recorded(reader, names if reader.channels == 2 else (alone,), part, mimi, advance)


def holds_codes(path: str | os.PathLike[str]) -> bool:
    """Whether there is a file of codes at a path."""
    where = not _streams.is_stream(path) and Path(path).is_file()
    return where and codes_file.is_codes(path)


def _coded(path: str | os.PathLike[str], who: str, part: Part) -> Side:
    """A file of codes."""
    values, info = codes_file.read(path)
    _check_start(_streams.name_of(path), info.seconds, part)
    codes = Codes(values.astype(np.uint16), info.frame_rate, info.cardinality)
    return Side(who, codes=codes.part(part.start, part.end), note=Path(path).name)


def _recorded(
    reader: AudioReader,
    names: tuple[str, ...],
    part: Part,
    mimi: Mimi | None,
    advance: Advance,
) -> list[Side]:
    """A recording, read once and to the end of the part."""
    rate, channels = reader.sample_rate, reader.channels
    if channels > 2:
        raise InputError(
            f"{reader.name} has {channels} channels, but a call has two sides; pick two of them "
            "(sox IN OUT remix 1 2)"
        )
    first = round(part.start * rate)
    last = None if part.whole else max(first + 1, round(part.end * rate))
    # A second more for the codec: the last frame's code depends on the whole frame.
    enough = None if last is None else last + (0 if mimi is None else rate)
    listeners = [Listener(rate) for _ in range(channels)]
    encoders = [] if mimi is None else [Encoder(mimi, rate) for _ in range(channels)]
    done = 0
    for block in reader.channel_blocks():
        drawn = block if last is None else block[: max(0, last - done)]
        drawn = drawn[max(0, first - done) :]
        for channel, listener in enumerate(listeners):
            listener.add(np.ascontiguousarray(drawn[:, channel]))
        for channel, encoder in enumerate(encoders):
            # From the beginning of the call: what a code is depends on what was heard before.
            encoder.add(np.ascontiguousarray(block[:, channel]))
        done += len(block)
        advance(len(block))
        if enough is not None and done >= enough:
            break
    if not done:
        raise InputError(f"{reader.name} holds no audio; give a file with at least one sample")
    _check_start(reader.name, done / rate, part)
    sounds = [listener.sound(first / rate) for listener in listeners]
    codes = [encoder.codes().part(part.start, part.end) for encoder in encoders]
    note = f"{Path(reader.name).name}, {rate / 1000:g} kHz"
    return [
        Side(who, sound, codes[channel] if codes else None, note)
        for channel, (who, sound) in enumerate(zip(names, sounds, strict=True))
    ]


def _check_start(name: str, seconds: float, part: Part) -> None:
    """Refuses a part that begins behind the end."""
    if part.start >= seconds:
        raise InputError(
            f"{name} is {seconds:.2f} s long, but the part to draw begins at {part.start:g} s; "
            "begin before its end"
        )
