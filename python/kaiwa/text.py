"""From text tokens to pieces of text, and from text to tokens (SentencePiece)."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from kaiwa.errors import CheckpointError, CheckpointNotFoundError, InputError

#: Tokens that say nothing: end of padding, speaker turns, padding (spec moshi-lm.md 2.2).
SILENT = frozenset((0, 1, 2, 3))

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Tokenizer:
    """The pieces of a model's text vocabulary. Make one with :meth:`load`."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, expected_pieces: int | None = None) -> Tokenizer:
        """Reads a SentencePiece ``.model`` file.

        Args:
            path: The file.
            expected_pieces: The model's text vocabulary, to be compared.

        Raises:
            CheckpointNotFoundError: The file does not exist.
            CheckpointError: It is no SentencePiece model, or of another vocabulary.
        """
        import sentencepiece

        file = Path(path)
        if not file.is_file():
            raise CheckpointNotFoundError(
                f"{file} does not exist; pass the tokenizer's .model file, or leave it out for the "
                "one beside the model"
            )
        try:
            data = file.read_bytes()
        except OSError as error:
            raise CheckpointError(f"cannot read {file}: {error.strerror}") from error
        processor = sentencepiece.SentencePieceProcessor()
        try:
            good = bool(data) and processor.LoadFromSerializedProto(data)
        except (RuntimeError, ValueError):
            good = False
        if not good:
            raise CheckpointError(
                f"{file} is not a SentencePiece model; pass the tokenizer_*.model file of the "
                "model's repository"
            )
        tokenizer = cls(processor)
        if expected_pieces is not None and tokenizer.pieces != expected_pieces:
            raise CheckpointError(
                f"{file} has {tokenizer.pieces} pieces, but the model's text vocabulary is "
                f"{expected_pieces}; pass the tokenizer that belongs to the model"
            )
        return tokenizer

    @property
    def pieces(self) -> int:
        """Number of pieces (32 000)."""
        return int(self._processor.GetPieceSize())

    def piece(self, token: int) -> str:
        """The raw piece of a token; U+2581 stands for a space.

        Raises:
            InputError: No such token.
        """
        if not 0 <= token < self.pieces:
            raise InputError(f"token {token} does not exist; there are {self.pieces}")
        return str(self._processor.IdToPiece(int(token)))

    def encode(self, text: str) -> list[int]:
        """Tokens of a text."""
        return [int(token) for token in self._processor.EncodeAsIds(text)]

    def stream(self) -> TextStream:
        """A fresh conversation's text."""
        return TextStream(self)


class TextStream:
    """The text of one conversation, token by token (spec moshi-lm.md 6.4)."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._bytes = b""

    def push(self, token: int) -> str:
        """What a token adds: its piece with spaces as spaces; ``""`` for tokens that say nothing
        and for bytes of a character that is not complete yet."""
        if token < 0 or token in SILENT:
            return ""
        piece = self._tokenizer.piece(token)
        byte = _BYTE.fullmatch(piece)
        if byte is None:
            return self._broken() + piece.replace("\u2581", " ")
        self._bytes += bytes([int(byte[1], 16)])
        try:
            text = self._bytes.decode("utf-8")
        except UnicodeDecodeError as error:
            if error.reason == "unexpected end of data" and len(self._bytes) < 4:
                return ""
            # The last byte may begin a character of its own.
            last, self._bytes = self._bytes[-1:], self._bytes[:-1]
            if not self._bytes:
                return "\ufffd"
            return self._broken() + self._again(last)
        self._bytes = b""
        return text

    def reset(self) -> None:
        """Forgets what is not complete."""
        self._bytes = b""

    def _broken(self) -> str:
        """Bytes that will not become a character."""
        text, self._bytes = self._bytes.decode("utf-8", errors="replace"), b""
        return text

    def _again(self, byte: bytes) -> str:
        try:
            return byte.decode("utf-8")
        except UnicodeDecodeError as error:
            if error.reason == "unexpected end of data":
                self._bytes = byte
                return ""
            return "\ufffd"
