"""Random checkpoints at real sizes: for benches, tests and demonstrations, not for speech.

The weights mean nothing, but they behave: signals keep their variance through the layers, codes
are diverse, and decoded audio is neither silent nor unbounded.
"""

from kaiwa.synth.checkpoint import LAYOUTS, SIZES, SynthReport, write_mimi
from kaiwa.synth.moshi import MOSHI_SIZES, write_moshi
from kaiwa.synth.voice import voice

__all__ = [
    "LAYOUTS",
    "MOSHI_SIZES",
    "SIZES",
    "SynthReport",
    "voice",
    "write_mimi",
    "write_moshi",
]
