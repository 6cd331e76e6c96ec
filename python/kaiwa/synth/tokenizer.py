"""A made-up SentencePiece tokenizer: its pieces are syllables, not words of a language."""

from __future__ import annotations

import itertools
import os
import random
import struct
from collections.abc import Iterator
from pathlib import Path

from kaiwa._atomic import replacing
from kaiwa.errors import InputError

# Kinds of pieces in SentencePiece's file.
_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6


def write_tokenizer(path: str | os.PathLike[str], pieces: int, seed: int = 0) -> None:
    """Writes a SentencePiece model of exactly ``pieces`` pieces: 0 to 3 as the released models
    have them, the 256 bytes if there is room, then syllables and words of two.

    Raises:
        InputError: Fewer than 8 pieces.
    """
    if pieces < 8:
        raise InputError(f"pieces is {pieces}; a tokenizer needs at least 8")
    table: list[tuple[str, int]] = [
        ("<unk>", _UNKNOWN),
        ("<s>", _CONTROL),
        ("</s>", _CONTROL),
        ("<pad>", _CONTROL),
    ]
    with_bytes = pieces >= 300
    if with_bytes:
        table += [(f"<0x{byte:02X}>", _BYTE) for byte in range(256)]
    words = _words(seed)
    table += [(word, _NORMAL) for word in itertools.islice(words, pieces - len(table))]
    model = bytearray()
    for rank, (piece, kind) in enumerate(table):
        score = struct.pack("<f", -float(rank))
        text = piece.encode("utf-8")
        entry = _field(1, text) + b"\x15" + score + _number(3, kind)
        model += _field(1, entry)
    trainer = _number(3, 2) + _number(4, pieces) + _number(35, int(with_bytes))
    trainer += _number(40, 0) + _number(41, 1) + _number(42, 2) + _number(43, 3)
    model += _field(2, trainer)
    model += _field(3, _field(1, b"identity") + _number(3, 1) + _number(4, 1) + _number(5, 1))
    with replacing(Path(path)) as temporary:
        temporary.write_bytes(bytes(model))


def _words(seed: int) -> Iterator[str]:
    """Letters, then syllables and longer words, some of which begin a word."""
    yield "\u2581"
    yield from "abcdefghijklmnopqrstuvwxyz"
    syllables = [a + b for a in "bdfghklmnprstvwz" for b in ("a", "e", "i", "o", "u", "an", "er")]
    random.Random(seed).shuffle(syllables)
    for syllable in syllables:
        yield "\u2581" + syllable
        yield syllable
    for count in itertools.count(2):
        for parts in itertools.product(syllables, repeat=count):
            yield "\u2581" + "".join(parts)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _field(field: int, data: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(data)) + data
