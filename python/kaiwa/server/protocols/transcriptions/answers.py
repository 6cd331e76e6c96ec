"""A transcript in the forms of OpenAI's API."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from kaiwa import transcript
from kaiwa.words import Word

FORMATS = ("json", "text", "srt", "verbose_json", "vtt")


def plain(words: Sequence[Word], seconds: float) -> dict[str, Any]:
    """`json`: the text, and how much audio it is the text of."""
    usage = {"type": "duration", "seconds": round(seconds)}
    return {"text": transcript.text(words), "usage": usage}


def verbose(
    words: Sequence[Word], seconds: float, language: str | None, granularities: Collection[str]
) -> dict[str, Any]:
    """`verbose_json`: also when what was said. The model tells of no language and no probability of
    its words, so that the first is the client's own word, and the second is left at 0."""
    told: dict[str, Any] = {
        "task": "transcribe",
        "language": language or "unknown",
        "duration": round(seconds, 3),
        "text": transcript.text(words),
        "usage": {"type": "duration", "seconds": round(seconds)},
    }
    segments = transcript.segments(words)
    if "segment" in granularities:
        told["segments"] = [
            {
                "id": number,
                "seek": 0,
                "start": round(one.start, 3),
                "end": round(one.stop, 3),
                "text": one.text,
                "tokens": [],
                "temperature": 0.0,
                "avg_logprob": 0.0,
                "compression_ratio": 0.0,
                "no_speech_prob": 0.0,
            }
            for number, one in enumerate(segments)
        ]
    if "word" in granularities:
        told["words"] = [
            {"word": word.text, "start": word.start, "end": round(stop, 3)}
            for word, stop in zip(words, transcript.stops(words), strict=True)
        ]
    return told


def as_text(words: Sequence[Word], form: str) -> str:
    """`text`, `srt` or `vtt`."""
    return transcript.write(words, form)
