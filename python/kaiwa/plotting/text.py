"""What the model said as text: files of `--text`, and pieces put together to phrases."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from kaiwa.errors import InputError
from kaiwa.plotting import json_lines

#: Seconds between pieces that begin a new phrase.
PAUSE = 0.6
#: Characters after which a phrase ends with its word.
LONG = 26


@dataclass(frozen=True)
class Piece:
    """Part of a word, or a word: when it was said in seconds, and its characters."""

    t: float
    text: str


@dataclass(frozen=True)
class Phrase:
    """Words that were said one after the other: when the first was in seconds, and all of them."""

    t: float
    text: str


def read(path: str | os.PathLike[str]) -> list[Piece]:
    """The pieces in a file that `kaiwa run --text` or `kaiwa client --text` wrote. Tokens, which
    stand there without a tokenizer, become words of digits.

    Raises:
        InputError: there is no such file, or a line of it is something else.
    """
    pieces = []
    for where, line in json_lines.read(path):
        if isinstance(line.get("text"), str):
            pieces.append(Piece(json_lines.number(where, line, "t"), line["text"]))
        elif "token" in line:
            token = json_lines.number(where, line, "token")
            pieces.append(Piece(json_lines.number(where, line, "t"), f" {token:.0f}"))
        else:
            raise InputError(
                f'{where} has neither "text" nor "token"; give a file that `kaiwa run --text` or '
                "`kaiwa client --text` wrote"
            )
    return pieces


def phrases(pieces: Iterable[Piece]) -> list[Phrase]:
    """Pieces as phrases: a new one begins after a pause, or at a word when the last is long."""
    found: list[Phrase] = []
    last = float("-inf")
    for piece in sorted(pieces, key=lambda piece: piece.t):
        text = " ".join(piece.text.split())
        begins = piece.text[:1].isspace()
        if not text:
            continue
        if piece.t - last > PAUSE or not found or (begins and len(found[-1].text) >= LONG):
            found.append(Phrase(piece.t, text))
        else:
            gap = " " if begins else ""
            found[-1] = Phrase(found[-1].t, found[-1].text + gap + text)
        last = piece.t
    return found
