"""The text of the demonstration model: a SentencePiece model of one piece a word."""

from __future__ import annotations

import io
from pathlib import Path

import sentencepiece

from training.clips import WORDS

#: Name under which the released models, and Kaiwa, look for it.
FILE = "tokenizer_spm_32k_3.model"
#: "A word begins at the next frame", and "nothing is being said".
BEGIN, PAD = 0, 3
#: Ids before the first word: the two above, and the marks of a text's begin and end.
SPECIAL = 4
#: Number of pieces.
PIECES = SPECIAL + len(WORDS)


def token(word: int) -> int:
    """Text token of a word of :data:`training.clips.WORDS`."""
    return SPECIAL + word


def write(folder: Path) -> Path:
    """Writes the tokenizer; the same bytes every time."""
    # Pieces are ordered by how often words occur, so the list's order is made of counts.
    lines = [" ".join([word] * (len(WORDS) - at)) for at, word in enumerate(WORDS)]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="word",
        normalization_rule_name="identity",
        vocab_size=PIECES,
        unk_id=BEGIN,
        bos_id=1,
        eos_id=2,
        pad_id=PAD,
        num_threads=1,
        minloglevel=2,
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    for at, word in enumerate(WORDS):
        found = processor.id_to_piece(token(at))
        if found != "\u2581" + word:
            raise RuntimeError(f"piece {token(at)} is {found!r}, but {word!r} was wanted")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_bytes(model.getvalue())
    return folder / FILE
