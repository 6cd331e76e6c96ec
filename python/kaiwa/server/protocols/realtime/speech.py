"""When the caller speaks, by WebRTC's detector of voice activity (package `webrtcvad`)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import webrtcvad
from numpy.typing import NDArray

#: The detector is asked about 10 ms at a time. It takes 48 kHz and not 24: each sample is given
#: twice, and what that adds is above all that the detector listens to.
SLOT_MS = 10
_SLOT_SAMPLES = 240
_DETECTOR_RATE = 48_000
#: Speech begins when so many of the last slots have voice, and goes on with so many in a row.
_BEGIN_VOICED, _BEGIN_SLOTS, _GO_ON_SLOTS = 6, 10, 2


@dataclass(frozen=True)
class Mark:
    """The caller began to speak, or has stopped, so many milliseconds after the audio began."""

    began: bool
    at_ms: int


class Speech:
    """Finds speech in audio as it comes."""

    def __init__(self, threshold: float = 0.5, silence_ms: int = 500) -> None:
        """Nothing was heard yet.

        Args:
            threshold: 0 to 1; the higher, the surer it has to be that a sound is speech.
            silence_ms: how long nothing is to be heard until speech has ended.
        """
        self._detector = webrtcvad.Vad()
        self._rest = np.zeros(0, np.int16)
        self._recent: deque[bool] = deque(maxlen=_BEGIN_SLOTS)
        self._slots = 0
        #: Slots at whose ends the caller was last heard, and with voice up to now.
        self._heard = self._run = 0
        self.speaking = False
        self.configure(threshold, silence_ms)

    def configure(self, threshold: float, silence_ms: int) -> None:
        """Other values of what the constructor takes."""
        self._detector.set_mode(min(3, int(threshold * 4)) if threshold < 1 else 3)
        self._silence_slots = max(1, silence_ms // SLOT_MS)

    @property
    def now_ms(self) -> int:
        """Audio so far."""
        return self._slots * SLOT_MS

    def hear(self, pcm: NDArray[np.float32]) -> list[Mark]:
        """Takes samples at 24 kHz."""
        fresh = np.clip(pcm * 32767, -32768, 32767).astype(np.int16)
        samples = np.concatenate((self._rest, fresh))
        whole = len(samples) // _SLOT_SAMPLES * _SLOT_SAMPLES
        self._rest = samples[whole:]
        slots = samples[:whole].reshape(-1, _SLOT_SAMPLES)
        data, size = np.repeat(slots, 2).tobytes(), 4 * _SLOT_SAMPLES
        marks = []
        for number, sounds in enumerate(np.any(slots, axis=1)):
            slot = data[number * size : (number + 1) * size]
            mark = self._slot(bool(sounds) and self._detector.is_speech(slot, _DETECTOR_RATE))
            if mark is not None:
                marks.append(mark)
        return marks

    def _slot(self, voiced: bool) -> Mark | None:
        self._slots += 1
        self._recent.append(voiced)
        self._run = self._run + 1 if voiced else 0
        if self.speaking:
            if self._run >= _GO_ON_SLOTS:
                self._heard = self._slots
            if self._slots - self._heard < self._silence_slots:
                return None
            self.speaking = False
            self._recent.clear()
            return Mark(False, self._heard * SLOT_MS)
        if sum(self._recent) < _BEGIN_VOICED:
            return None
        self.speaking = True
        self._heard = self._slots
        first = self._slots - len(self._recent) + list(self._recent).index(True)
        return Mark(True, first * SLOT_MS)
