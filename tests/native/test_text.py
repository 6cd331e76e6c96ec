"""Text pieces: the piece rule, characters cut into bytes, and files that are no tokenizer."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import sentencepiece

import kaiwa
from kaiwa import loading
from kaiwa import text as text_module
from kaiwa.synth.tokenizer import write_tokenizer
from kaiwa.text import Tokenizer

PIECES = 600
#: Id of the first of the 256 byte pieces.
BYTE = 4


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "tokenizer.model"
    write_tokenizer(path, PIECES)
    return path


@pytest.fixture(scope="session")
def tokenizer(model: Path) -> Tokenizer:
    return Tokenizer.load(model, expected_pieces=PIECES)


def processor(path: Path) -> Any:
    loaded = sentencepiece.SentencePieceProcessor()
    loaded.LoadFromSerializedProto(path.read_bytes())
    return loaded


def said(tokenizer: Tokenizer, tokens: list[int]) -> list[str]:
    stream = tokenizer.stream()
    return [stream.push(token) for token in tokens]


def byte_tokens(data: bytes) -> list[int]:
    return [BYTE + byte for byte in data]


# The files that are made up.


@pytest.mark.parametrize("pieces", [8, 48, 299, 300, 2048, 32000])
def test_a_made_up_tokenizer_is_a_sentencepiece_model(pieces: int, tmp_path: Path) -> None:
    path = tmp_path / "t.model"
    write_tokenizer(path, pieces, seed=3)
    theirs = processor(path)
    assert theirs.GetPieceSize() == pieces
    assert (theirs.unk_id(), theirs.bos_id(), theirs.eos_id(), theirs.pad_id()) == (0, 1, 2, 3)
    assert theirs.IsUnknown(0)
    assert all(theirs.IsControl(token) for token in (1, 2, 3))
    count = 256 if pieces >= 300 else 0
    assert [token for token in range(pieces) if theirs.IsByte(token)] == [*range(4, 4 + count)]
    if count:
        assert [theirs.IdToPiece(4 + b) for b in range(256)] == [f"<0x{b:02X}>" for b in range(256)]
    words = [theirs.IdToPiece(token) for token in range(4 + count, pieces)]
    assert len(set(words)) == len(words)
    assert all(words)
    if pieces >= 300:
        starts = sum(word.startswith("\u2581") for word in words)
        assert 0 < starts < len(words)
        # Any text survives the way there and back.
        for text in ("bade fogi", "Hello, world", "日本語 é 😀", "x"):
            assert theirs.DecodeIds(theirs.EncodeAsIds(text)) == text


def test_the_seed_makes_the_words(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "abc"]
    for path, seed in zip(paths, (1, 1, 2), strict=True):
        write_tokenizer(path, PIECES, seed)
    first, again, other = (path.read_bytes() for path in paths)
    assert first == again
    assert first != other


def test_too_few_pieces(tmp_path: Path) -> None:
    for pieces in (-1, 0, 7):
        with pytest.raises(kaiwa.InputError, match="at least 8"):
            write_tokenizer(tmp_path / "t.model", pieces)
    assert not list(tmp_path.iterdir())


# Pieces and tokens.


def test_pieces_are_those_of_the_file(tokenizer: Tokenizer, model: Path) -> None:
    theirs = processor(model)
    assert tokenizer.pieces == PIECES
    assert [tokenizer.piece(i) for i in range(PIECES)] == theirs.IdToPiece(list(range(PIECES)))
    assert tokenizer.piece(np.int32(5)) == "<0x01>"
    for token in (-1, PIECES, 2**40):
        with pytest.raises(kaiwa.InputError, match=f"token {token} does not exist"):
            tokenizer.piece(token)
    for wrong in (1.0, "1", None):
        with pytest.raises(kaiwa.InputError, match="pass an integer"):
            tokenizer.piece(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "bade fogi", " two  spaces ", "日本語 😀", "a\nb"])
def test_encode(text: str, tokenizer: Tokenizer, model: Path) -> None:
    tokens = tokenizer.encode(text)
    assert tokens == processor(model).EncodeAsIds(text)
    assert all(type(token) is int for token in tokens)
    # A text that is said begins with the space that SentencePiece puts in front of a word.
    # Spaces at the ends and repeated ones are taken away before.
    words = re.sub(" +", " ", text).strip(" ")
    assert "".join(said(tokenizer, tokens)).removeprefix(" ") == words


def test_what_cannot_be_encoded(tokenizer: Tokenizer) -> None:
    with pytest.raises(kaiwa.InputError, match=r"U\+DC80 at 1"):
        tokenizer.encode("a\udc80")
    for wrong in (b"bytes", None, ["a"]):
        with pytest.raises(kaiwa.InputError, match="pass a string"):
            tokenizer.encode(wrong)  # type: ignore[arg-type]


# The piece rule.


def test_spaces_and_silent_tokens(tokenizer: Tokenizer) -> None:
    words = {tokenizer.piece(token): token for token in range(BYTE + 256, PIECES)}
    start = next(piece for piece in words if piece.startswith("\u2581") and len(piece) > 2)
    inner = next(piece for piece in words if not piece.startswith("\u2581") and len(piece) > 1)
    tokens = [0, words[start], 3, words[inner], -1, -2, 1, 2, words["\u2581"], words[start]]
    assert said(tokenizer, tokens) == [
        "", " " + start[1:], "", inner, "", "", "", "", " ", " " + start[1:],
    ]  # fmt: skip
    assert tokenizer.stream().push(np.int32(words[inner])) == inner
    with pytest.raises(kaiwa.InputError, match="does not exist"):
        tokenizer.stream().push(PIECES)  # the token before the first, never sampled


BYTES: list[tuple[str, list[int], list[str]]] = [
    ("one byte", [0x41], ["A"]),
    ("two", [0xC3, 0xA9], ["", "é"]),
    ("three", [0xE2, 0x82, 0xAC], ["", "", "€"]),
    ("four", [0xF0, 0x9F, 0x98, 0x80], ["", "", "", "😀"]),
    ("two characters", [0xC3, 0xA9, 0xC3, 0xA9], ["", "é", "", "é"]),
    ("never a first byte", [0xFF, 0x41], ["\ufffd", "A"]),
    ("a byte of the middle", [0x82, 0x41], ["\ufffd", "A"]),
    ("cut by a letter", [0xE2, 0x82, 0x41], ["", "", "\ufffdA"]),
    ("cut by a character", [0xE2, 0xC3, 0xA9], ["", "\ufffd", "é"]),
    ("a surrogate", [0xED, 0xA0, 0x80], ["", "", "\ufffd" * 3]),
    ("too long a form", [0xC0, 0x80], ["\ufffd", "\ufffd"]),
]


@pytest.mark.parametrize(("data", "want"), [c[1:] for c in BYTES], ids=[c[0] for c in BYTES])
def test_bytes(data: list[int], want: list[str], tokenizer: Tokenizer) -> None:
    tokens = byte_tokens(bytes(data))
    assert said(tokenizer, tokens) == want
    # Silent tokens between the bytes change nothing.
    padded = [token for byte in tokens for token in (3, byte, 0, -1)]
    assert said(tokenizer, padded)[1::4] == want
    assert "".join(said(tokenizer, padded)) == "".join(want)


def test_a_piece_ends_a_character(tokenizer: Tokenizer) -> None:
    word = next(i for i in range(PIECES) if tokenizer.piece(i) == "\u2581")
    assert said(tokenizer, [*byte_tokens(b"\xe2\x82"), word]) == ["", "", "\ufffd "]
    assert said(tokenizer, [*byte_tokens(b"\xe2\x82\xac"), word]) == ["", "", "€", " "]


def test_bytes_of_any_kind(tokenizer: Tokenizer) -> None:
    rng = np.random.default_rng(5)
    # Mostly bytes that begin or continue a character, so that many are nearly right.
    pool = np.array([0x41, *range(0x80, 0xC0, 7), 0xC3, 0xE0, 0xE2, 0xED, 0xF0, 0xF4, 0xFF])
    word = next(i for i in range(PIECES) if tokenizer.piece(i) == "\u2581")
    for _ in range(300):
        data = bytes(rng.choice(pool, size=rng.integers(1, 12)).astype(np.uint8))
        got = "".join(said(tokenizer, [*byte_tokens(data), word]))
        assert got == data.decode("utf-8", errors="replace") + " "


def test_reset_and_streams_of_their_own(tokenizer: Tokenizer) -> None:
    first, second = tokenizer.stream(), tokenizer.stream()
    euro = byte_tokens("€".encode())
    assert [first.push(token) for token in euro[:2]] == ["", ""]
    assert [second.push(token) for token in euro] == ["", "", "€"]
    assert first.push(euro[2]) == "€"
    first.push(euro[0])
    first.reset()
    assert first.push(BYTE + 0x41) == "A"


# Files.


def test_another_vocabulary(model: Path) -> None:
    assert Tokenizer.load(str(model)).pieces == PIECES
    words = f"tokenizer has {PIECES} pieces, the model's text vocabulary is 48000: "
    with pytest.raises(kaiwa.CheckpointError, match=re.escape(words)):
        Tokenizer.load(model, expected_pieces=48000)


def never(*_: object, **__: object) -> None:
    raise AssertionError("this takes minutes with a large model")


def test_another_vocabulary_is_found_before_weights_are_read(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kaiwa.Moshi, "from_files", never)
    monkeypatch.setattr(kaiwa.Mimi, "from_pretrained", never)
    with pytest.raises(kaiwa.CheckpointError, match=f"tokenizer has {PIECES} pieces"):
        kaiwa.Engine("demo", tokenizer=model)


def test_another_vocabulary_is_found_before_the_engine_starts(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = loading.load("synth:tiny")
    started = SimpleNamespace(Engine=SimpleNamespace(start=never))
    monkeypatch.setattr("kaiwa.engine._native", started)
    with pytest.raises(kaiwa.InputError, match=f"tokenizer has {PIECES} pieces"):
        kaiwa.Engine(parts.moshi, mimi=parts.mimi, tokenizer=tokenizer)
    with pytest.raises(AssertionError, match="minutes"):
        kaiwa.Engine(parts.moshi, mimi=parts.mimi, tokenizer=parts.tokenizer)


def not_utf8(data: bytes) -> bytes:
    """Breaks the text of one piece, not its length."""
    assert b"<pad>" in data
    return data.replace(b"<pad>", b"<p\xff\xfe>")


FILES: list[tuple[str, Callable[[bytes], bytes], str]] = [
    ("empty", lambda b: b"", "is empty"),
    ("cut off", lambda b: b[: len(b) // 2 + 1], "damaged"),
    ("its first half gone", lambda b: b[len(b) // 2 :], "damaged"),
    ("zeros", lambda b: bytes(1000), "damaged"),
    ("a git-lfs pointer", lambda b: b"version https://git-lfs.github.com/spec/v1\n", "lfs pull"),
    ("a web page", lambda b: b"\n<!DOCTYPE html><html></html>", "a web page"),
    ("JSON", lambda b: b'{"version": "1.0", "model": {}}', "JSON"),
    ("weights", lambda b: (16).to_bytes(8, "little") + b'{"a": {}}       ', "not a SentencePiece"),
    ("plain text", lambda b: b"one\ntwo\n", "not a SentencePiece"),
    ("no piece for the unknown", lambda b: b"\n\x05\n\x01a\x18\x01", "not a SentencePiece"),
    ("not UTF-8", not_utf8, "not a SentencePiece"),
]


@pytest.mark.parametrize(("damage", "word"), [c[1:] for c in FILES], ids=[c[0] for c in FILES])
def test_bad_files(
    damage: Callable[[bytes], bytes], word: str, model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "bad.model"
    path.write_bytes(damage(model.read_bytes()))
    with pytest.raises(kaiwa.CheckpointError, match=re.escape(word)) as caught:
        Tokenizer.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value), "one line"


def test_places_without_a_file(tmp_path: Path) -> None:
    for path in (tmp_path / "no.model", tmp_path / "no" / "no.model"):
        with pytest.raises(kaiwa.CheckpointNotFoundError, match="does not exist"):
            Tokenizer.load(path)
    with pytest.raises(kaiwa.CheckpointError, match="is a folder"):
        Tokenizer.load(tmp_path)
    with pytest.raises(kaiwa.CheckpointError, match="cannot read"):
        Tokenizer.load(tmp_path / ("x" * 5000))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(kaiwa.CheckpointError, match="pipe"):
        Tokenizer.load(pipe)


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.truncate(text_module.MAX_BYTES + 1)  # sparse: takes no room
    with pytest.raises(kaiwa.CheckpointError, match="too many for a tokenizer"):
        Tokenizer.load(path)
