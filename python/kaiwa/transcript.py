"""Words as text, JSON and subtitles (SubRip and WebVTT)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from kaiwa.words import Word

#: What a transcript can be written as.
FORMATS = ("text", "json", "srt", "vtt")
#: Longest line of a subtitle, in characters; longest time that one stays, and the longest pause
#: inside one, in seconds.
LINE, STAYS, PAUSE = 42, 6.0, 1.0
#: Shortest time that a subtitle stays, and that a word without an end is taken to last.
SHORTEST = 0.4


@dataclass(frozen=True)
class Segment:
    """Words that are shown together."""

    words: tuple[Word, ...]
    #: Seconds.
    start: float
    stop: float

    @property
    def text(self) -> str:
        """The words with spaces between them."""
        return text(self.words)


def text(words: Sequence[Word]) -> str:
    """The words with spaces between them."""
    return " ".join(word.text for word in words if word.text)


def segments(words: Sequence[Word]) -> list[Segment]:
    """Cuts words into subtitles: at pauses, at ends of sentences, and where a line is full."""
    found: list[Segment] = []
    current: list[Word] = []

    def close(following: Word | None) -> None:
        if current:
            stop = _stop_of(current[-1], following)
            start = current[0].start
            found.append(Segment(tuple(current), start, max(stop, start + SHORTEST)))
            current.clear()

    for word in words:
        if current:
            last = current[-1]
            ended = _stop_of(last, word)
            long = len(text([*current, word])) > LINE or word.start - current[0].start > STAYS
            if long or word.start - ended > PAUSE or last.text.endswith((".", "?", "!")):
                close(word)
        current.append(word)
    close(None)
    # No two at once.
    return [
        Segment(one.words, one.start, max(one.start, min(one.stop, following.start)))
        if following is not None
        else one
        for one, following in zip_longest(found, found[1:])
    ]


def stops(words: Sequence[Word]) -> list[float]:
    """When each word ends, in seconds; an estimate where the model does not tell."""
    return [_stop_of(word, following) for word, following in zip_longest(words, words[1:])]


def _stop_of(word: Word, following: Word | None) -> float:
    """When a word ends; where that is not known, soon, but not after the next begins."""
    if word.stop is not None:
        return word.stop
    stop = word.start + SHORTEST
    return stop if following is None else max(word.start, min(stop, following.start))


def rows(words: Sequence[Word]) -> list[dict[str, Any]]:
    """Words as plain objects: `text`, `start` and `stop` in seconds, `stop` null if not known."""
    return [word._asdict() for word in words]


def to_json(words: Sequence[Word]) -> str:
    """An object with `text` and `words`."""
    return json.dumps({"text": text(words), "words": rows(words)}, ensure_ascii=False)


def to_srt(words: Sequence[Word]) -> str:
    """SubRip: numbered subtitles, times with a comma."""
    blocks = [
        f"{number}\n{_clock(one.start, ',')} --> {_clock(one.stop, ',')}\n{one.text}\n"
        for number, one in enumerate(segments(words), 1)
    ]
    return "\n".join(blocks)


def to_vtt(words: Sequence[Word]) -> str:
    """WebVTT."""
    blocks = [
        f"{_clock(one.start, '.')} --> {_clock(one.stop, '.')}\n{_escaped(one.text)}\n"
        for one in segments(words)
    ]
    return "\n".join(["WEBVTT\n", *blocks])


def _escaped(line: str) -> str:
    """Characters that mean something in WebVTT."""
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def write(words: Sequence[Word], form: str) -> str:
    """A transcript in one of :data:`FORMATS`, with a line break at its end if it is not empty."""
    made = {"text": text, "json": to_json, "srt": to_srt, "vtt": to_vtt}[form](words)
    return made if not made or made.endswith("\n") else made + "\n"


def _clock(seconds: float, point: str) -> str:
    """Hours, minutes, seconds and milliseconds."""
    whole = round(seconds * 1000)
    minutes, rest = divmod(whole, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}{point}{rest % 1000:03d}"
