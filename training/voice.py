"""The model's own side of a conversation: its words, as audio, text and codes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

import kaiwa
from training import mixing, words
from training.clips import RATE, Clips
from training.mixing import FRAME, Array

#: Frames of silence before a word when its codes are made, more than the codec remembers.
LEAD = 40
#: Samples in which it falls silent when it is interrupted: 20 ms.
FADE = RATE // 50


class Codes:
    """The codes of each own word, said after a long silence, and those of silence.

    A conversation is put together of them. So the codes of a word are the same ones wherever it is
    said: the language model cannot get them wrong, and the decoder can learn them by heart.
    """

    def __init__(self, mimi: kaiwa.Mimi, own: Clips) -> None:
        self.words: dict[int, NDArray[np.int64]] = {}
        for index, said in enumerate(own.words):
            clip = own.samples(index)
            count = -(-len(clip) // FRAME) + 1
            audio = np.zeros((LEAD + count) * FRAME, np.float32)
            audio[LEAD * FRAME : LEAD * FRAME + len(clip)] = clip
            codes = mimi.stream(1).encode(audio[None, None])[0]
            self.words[said[0]] = codes[:, LEAD:].astype(np.int64)
            self.silence = codes[:, LEAD - 1].astype(np.int64)

    def of(self, parts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Codes ``[n_q, T]`` of :attr:`Voice.parts`."""
        out = np.repeat(self.silence[:, None], parts.shape[1], 1)
        for at in np.flatnonzero(parts[0] >= 0):
            word, frame = int(parts[0, at]), int(parts[1, at])
            out[:, at] = self.words[word][:, frame]
        return out


class Voice:
    """The model's side: its words begin with frames, so that it always says them alike."""

    def __init__(self, own: Clips, frames: int) -> None:
        self.own = own
        self.audio = np.zeros(frames * FRAME, np.float32)
        self.text = np.full(frames, words.PAD)
        #: Of each frame the word that is being said and the number of its frame, -1 in silence.
        self.parts = np.full((2, frames), -1, np.int64)
        self.clip = {said[0]: index for index, said in enumerate(own.words)}

    def say(self, frame: int, said: list[int]) -> int:
        """Says words from a frame on; gives the frame after the last."""
        frames = len(self.text)
        for word in said:
            count = -(-len(self.own.samples(self.clip[word])) // FRAME) + 1
            if frame < frames:
                mixing.place(self.audio, frame * FRAME, self.own, self.clip[word])
                self.text[frame] = words.token(word)
                left = min(count, frames - frame)
                self.parts[0, frame : frame + left] = word
                self.parts[1, frame : frame + left] = np.arange(left)
            if 0 < frame <= frames and self.text[frame - 1] == words.PAD:
                self.text[frame - 1] = words.BEGIN
            frame += count
        return frame - 1

    def audio_of(self, other: Clips) -> Array:
        """The same words at the same places, each as long as here at most, from other clips."""
        out = np.zeros_like(self.audio)
        clip = {said[0]: index for index, said in enumerate(other.words)}
        begins = np.flatnonzero(self.parts[1] == 0)
        for at in begins:
            after = np.flatnonzero(self.parts[1, at + 1 :] <= 0)
            end = int(at) + 1 + int(after[0]) if len(after) else self.parts.shape[1]
            piece = other.samples(clip[int(self.parts[0, at])])[: (end - at) * FRAME]
            whole = len(piece) < (end - at) * FRAME
            if not whole:
                piece[-FADE:] *= np.linspace(1, 0, FADE, dtype=np.float32)
            out[at * FRAME : at * FRAME + len(piece)] = piece
        return out

    def stop(self, frame: int) -> None:
        """Falls silent at a frame, over 20 ms."""
        at = frame * FRAME
        if 0 < at <= len(self.audio):
            self.audio[at - FADE : at] *= np.linspace(1, 0, FADE, dtype=np.float32)
        self.audio[at:] = 0
        self.text[frame:] = words.PAD
        self.parts[:, frame:] = -1
        if 0 < frame <= len(self.text) and self.text[frame - 1] == words.BEGIN:
            self.text[frame - 1] = words.PAD
