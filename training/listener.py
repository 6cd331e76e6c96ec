"""An independent listener: pocketsphinx with a grammar of the few words there are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pocketsphinx

import kaiwa
from training.clips import DIGITS, RATE, TEENS
from training.mixing import Array

#: Quieter than this all along is silence, which the recogniser would read words into.
SILENCE = 0.02


#: Room tone and silence around the speech, and the recogniser's own numbers, chosen so that it
#: reads the most of clean synthetic speech: as it comes it hears an "eight" in every final burst.
TONE, PAD = 3e-3, 12_000
SETTINGS = {
    "silprob": 0.5,
    "wip": 0.1,
    "beam": 1e-60,
    "wbeam": 1e-40,
    "pbeam": 1e-60,
    "remove_noise": False,
}


class Listener:
    """Reads words out of audio."""

    def __init__(self, vocabulary: Sequence[str] = (*DIGITS, *TEENS)) -> None:
        self._decoder = pocketsphinx.Decoder(samprate=16000, lm=None, loglevel="FATAL", **SETTINGS)
        words = " | ".join(vocabulary)
        grammar = f"#JSGF V1.0; grammar words; public <said> = ( {words} )+;"
        self._decoder.add_jsgf_string("words", grammar)
        self._decoder.activate_search("words")

    def words(self, audio: Array) -> list[str]:
        """Words of audio ``[samples]`` at 24 kHz, which may begin and end with silence."""
        loud = np.flatnonzero(np.abs(audio) > SILENCE)
        if not len(loud):
            return []
        speech = audio[loud[0] : loud[-1] + 1]
        tone = np.random.default_rng(0).standard_normal(len(speech) + 2 * PAD)
        padded = (TONE * tone).astype(np.float32)
        padded[PAD : PAD + len(speech)] += speech
        to_its_rate = kaiwa.Resampler(RATE, 16_000)
        low = np.concatenate((to_its_rate.process(padded), to_its_rate.finish()))
        low = np.clip(low, -1, 1)
        self._decoder.start_utt()
        self._decoder.process_raw((low * 32767).astype(np.int16).tobytes(), full_utt=True)
        self._decoder.end_utt()
        found = self._decoder.hyp()
        return found.hypstr.split() if found else []


def errors(wanted: Sequence[str], got: Sequence[str]) -> int:
    """Fewest words to insert, delete or replace."""
    row = list(range(len(got) + 1))
    for i, want in enumerate(wanted, 1):
        last, row[0] = row[0], i
        for j, have in enumerate(got, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (want != have))
    return row[-1]
