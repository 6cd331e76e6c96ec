"""From text tokens to text as it is said, and from text to tokens (SentencePiece)."""

from __future__ import annotations

import codecs
import operator
import os
from pathlib import Path
from typing import Any, SupportsIndex

from kaiwa.errors import CheckpointError, CheckpointNotFoundError, InputError

#: Tokens that stand for no text: end of padding, begin, end, padding (docs/spec/moshi.md 2.2, 6.4).
SILENT = frozenset((0, 1, 2, 3))

#: Largest file that is read as a tokenizer. The released ones are below 2 MiB; weights, given by
#: mistake, can be larger than the memory.
MAX_BYTES = 256 << 20

#: What other files that end up in a tokenizer's place begin with, what they are, and the remedy.
_FOREIGN = (
    (
        b"version https://git-lfs",
        "a git-lfs pointer (a few lines naming the real file)",
        "run `git lfs pull`, or download the file with `hf download`",
    ),
    (b"<!doctype", "a web page", "download the file itself, not the page that shows it"),
    (b"<html", "a web page", "download the file itself, not the page that shows it"),
    (b"{", "JSON", "pass the SentencePiece file (tokenizer_*.model), not a tokenizer.json"),
)


class Tokenizer:
    """The text vocabulary of a model (SentencePiece). Made by :meth:`load`; several threads may use
    it at once."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        ids = list(range(int(processor.GetPieceSize())))
        self._pieces: list[str] = processor.IdToPiece(ids)
        is_byte: list[bool] = processor.IsByte(ids)
        self._byte_of = {i: bytes.fromhex(self._pieces[i][3:-1]) for i in ids if is_byte[i]}

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, expected_pieces: int | None = None) -> Tokenizer:
        """Reads a SentencePiece `.model` file.

        Args:
            path: the file.
            expected_pieces: size of the model's text vocabulary, which the file must have.

        Raises:
            CheckpointNotFoundError: the file does not exist.
            CheckpointError: it cannot be read, is not a SentencePiece model, or has another number
                of pieces.
        """
        import sentencepiece

        file = Path(path)
        data = _read(file)
        processor = sentencepiece.SentencePieceProcessor()
        try:
            processor.LoadFromSerializedProto(data)
            tokenizer = cls(processor)
        except (RuntimeError, ValueError, OSError):  # ValueError: pieces that are not UTF-8
            what, remedy = _kind_of(data)
            raise CheckpointError(
                f"{file} is {what}, not a SentencePiece model; {remedy}"
            ) from None
        if expected_pieces is not None and tokenizer.pieces != expected_pieces:
            raise CheckpointError(
                f"the tokenizer has {tokenizer.pieces} pieces, the model's text vocabulary is "
                f"{expected_pieces}: {file} belongs to another model; pass the tokenizer_*.model "
                "file of the model's own repository"
            )
        return tokenizer

    @property
    def pieces(self) -> int:
        """Number of pieces (32 000 in Moshi)."""
        return len(self._pieces)

    def piece(self, token: SupportsIndex) -> str:
        """The piece of a token as the file has it: U+2581 stands for a space.

        Raises:
            InputError: there is no such token.
        """
        index = _index(token)
        if not 0 <= index < len(self._pieces):
            raise InputError(
                f"text token {index} does not exist; this tokenizer has 0 to {self.pieces - 1}"
            )
        return self._pieces[index]

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, without begin and end.

        Raises:
            InputError: `text` is not a string, or has surrogates, which UTF-8 cannot hold.
        """
        if not isinstance(text, str):
            raise InputError(f"text is {type(text).__name__}; pass a string")
        try:
            data = text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(
                f"text has the surrogate U+{ord(text[error.start]):04X} at {error.start}; remove it"
            ) from None
        return [int(token) for token in self._processor.EncodeAsIds(data.decode("utf-8"))]

    def stream(self) -> TextStream:
        """A decoder of the text tokens of one new conversation."""
        return TextStream(self)


class TextStream:
    """The text of one conversation, token by token (docs/spec/moshi.md 6.4)."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        # Keeps the bytes of a character that is not complete; what can no longer become one is
        # replaced by U+FFFD as soon as that is known.
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: SupportsIndex) -> str:
        """The text that a token adds to what was said so far.

        It is the token's piece, with spaces for U+2581. It is empty for the tokens 0 to 3 and for
        negative ones, which stand for no text, and for a byte that does not complete a character.
        Tokens without text may come between the bytes of a character. If a piece of text comes
        there, the character stays incomplete and U+FFFD takes its place.

        Raises:
            InputError: there is no such token.
        """
        index = _index(token)
        if index < 0 or index in SILENT:
            return ""
        piece = self._tokenizer.piece(index)
        byte = self._tokenizer._byte_of.get(index)
        if byte is not None:
            return self._decoder.decode(byte)
        return self._decoder.decode(b"", final=True) + piece.replace("\u2581", " ")

    def reset(self) -> None:
        """Starts a new conversation: bytes of a character that is not complete are dropped."""
        self._decoder.reset()


def _index(token: SupportsIndex) -> int:
    """A token as an int, whichever integer type it has."""
    try:
        return operator.index(token)
    except TypeError:
        raise InputError(f"a text token is {type(token).__name__}; pass an integer") from None


def _read(file: Path) -> bytes:
    """The bytes of a file that may be a tokenizer."""
    remedy = "pass the tokenizer's .model file"
    try:
        if file.is_dir():
            raise CheckpointError(f"{file} is a folder; {remedy}")
        if not file.exists():
            raise CheckpointNotFoundError(f"{file} does not exist; {remedy}")
        if not file.is_file():
            raise CheckpointError(f"{file} is a device or pipe; {remedy}")
        size = file.stat().st_size
        if size > MAX_BYTES:
            raise CheckpointError(f"{file} has {size} bytes, too many for a tokenizer; {remedy}")
        return file.read_bytes()
    except OSError as error:
        if isinstance(error, CheckpointNotFoundError):
            raise
        raise CheckpointError(
            f"cannot read {file}: {error.strerror or error}; check the path and its permissions"
        ) from error


def _kind_of(data: bytes) -> tuple[str, str]:
    """What a file that is not a tokenizer seems to be, and what to do about it."""
    if not data:
        return "empty", "download it again"
    start = data[:64].lstrip().lower()
    for mark, what, remedy in _FOREIGN:
        if start.startswith(mark):
            return what, remedy
    return "damaged or something else", (
        "download it again, or pass the tokenizer_*.model file of the model's repository"
    )
