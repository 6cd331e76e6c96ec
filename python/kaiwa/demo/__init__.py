"""The small model that comes with Kaiwa: it says spoken digits back and adds two of them.

It has the released architecture and file formats (docs/demo-model.md is its card), so whatever is
built with it works with a released model too::

    duplex = kaiwa.Duplex.from_pretrained("demo")
"""

from __future__ import annotations

from pathlib import Path

from kaiwa.errors import CheckpointNotFoundError

#: Names the model wherever a source is asked for. A folder of that name is ``./demo``.
SOURCE = "demo"
#: What a command says that uses it because no model was named.
HINT = (
    "no model named, so the small demo model answers: say some digits, or a sum such as "
    '"three plus four"; the real one: --model kyutai/moshika-candle-q8'
)
#: The same of a command that uses only its codec.
CODEC_HINT = (
    "no model named, so the small demo codec is used, which was trained on few voices; the real "
    "one: --model kyutai/mimi"
)


def is_demo(source: object) -> bool:
    """Whether a source names this model."""
    return isinstance(source, str) and source == SOURCE


def folder() -> Path:
    """Where its files are.

    Raises:
        CheckpointNotFoundError: this installation has none.
    """
    path = Path(__file__).parent / "model"
    if not (path / "config.json").is_file():
        raise CheckpointNotFoundError(
            "this installation of Kaiwa has no demo model; install the published wheel, or name "
            "another model: --model synth:tiny (random weights), --model kyutai/moshika-candle-q8"
        )
    return path
