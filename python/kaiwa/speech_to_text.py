"""Speech to text: codes in, text and probabilities of pauses out; and whole recordings to words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kaiwa import _arrays, loading
from kaiwa import _lm_arguments as check
from kaiwa.audio_files import AudioReader
from kaiwa.errors import CheckpointNotFoundError, InputError
from kaiwa.load_options import LoadOptions, Progress
from kaiwa.mimi import Mimi
from kaiwa.moshi import LmConfig, Moshi, MoshiStream
from kaiwa.resampler import Resampler
from kaiwa.text import Tokenizer
from kaiwa.words import Word, WordList, Words

#: Frames that the codec is given at once when a recording is transcribed (2.56 s).
CHUNK_FRAMES = 32
#: Seconds of silence behind a recording, beside the model's delay, in which its last word ends.
CLOSING_SECONDS = 1.0


@dataclass(frozen=True, eq=False)
class SpeechToTextOutput:
    """What a step gives; unpacks into ``text, heads``."""

    #: int32 ``[slots]``: text token of each slot; -2 for slots that were paused.
    text: NDArray[np.int32]
    #: float32 ``[slots, n]``: entry 0 of each of the model's ``n`` extra heads, the probability
    #: that nobody speaks over that head's stretch of time (of the released model 0.5, 1, 2 and
    #: 3 s); 0 for slots that were paused.
    heads: NDArray[np.float32]
    #: float32 ``[slots, text_card]``: logits of the text; 0 for slots that were paused.
    text_logits: NDArray[np.float32]

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return iter((self.text, self.heads))


class SpeechToText:
    """A speech to text model: immutable weights, shared by every stream made from them, safe to use
    from several threads. Make one with :meth:`from_pretrained`.

    Args:
        moshi: The language model; one that does not speak (``dep_q`` is 0).
        mimi: The codec, for :meth:`transcribe`; it gives at least
            :attr:`Moshi.num_codebooks_in` codebooks.
        tokenizer: For :meth:`transcribe`.

    Raises:
        InputError: The parts do not fit together.
    """

    def __init__(
        self, moshi: Moshi, mimi: Mimi | None = None, tokenizer: Tokenizer | None = None
    ) -> None:
        if moshi.dep_q:
            raise InputError(
                "this model speaks; use kaiwa.Duplex for it, or a speech to text model such as "
                "kyutai/stt-1b-en_fr"
            )
        if mimi is not None and (
            mimi.cardinality != moshi.card or mimi.num_codebooks < moshi.num_codebooks_in
        ):
            raise InputError(
                f"the codec gives {mimi.num_codebooks} codebooks of {mimi.cardinality} entries, "
                f"the model hears {moshi.num_codebooks_in} of {moshi.card}; load the codec of the "
                f"model with num_codebooks={moshi.num_codebooks_in}"
            )
        if tokenizer is not None and tokenizer.pieces != moshi.text_card:
            raise InputError(
                f"the tokenizer has {tokenizer.pieces} pieces, the model's text vocabulary is "
                f"{moshi.text_card}; use the tokenizer that belongs to the model"
            )
        self.moshi = moshi
        self.mimi = mimi
        self.tokenizer = tokenizer

    @classmethod
    def from_pretrained(
        cls,
        source: str | PathLike[str],
        *,
        mimi: str | PathLike[str] | None = None,
        tokenizer: str | PathLike[str] | None = None,
        device: str = "auto",
        mimi_device: str | None = None,
        dtype: Any = None,
        quantize: Any = None,
        lora: str | PathLike[str] | None = None,
        kv_dtype: Any = None,
        config: Mapping[str, Any] | str | PathLike[str] | None = None,
        revision: str | None = None,
        cache_dir: str | PathLike[str] | None = None,
        progress: Progress | None = None,
    ) -> SpeechToText:
        """Loads a model in any published format, with the codec and the tokenizer beside it (or
        those named). Without them :meth:`stream` still works.

        ``source`` is a repository such as ``"kyutai/stt-1b-en_fr"``, a folder or a file;
        ``"synth:stt-tiny"`` and ``"synth:stt-1b"`` are random weights. ``mimi`` is a source of
        :meth:`Mimi.from_pretrained`, ``tokenizer`` the file of a SentencePiece model, and
        ``mimi_device`` the device of the codec, ``None`` that of the model. The other arguments are
        those of :meth:`Moshi.from_pretrained`.

        Raises:
            InputError: An option has a wrong value, or the model is one that speaks.
            CheckpointNotFoundError, DownloadError, CheckpointError, DeviceError: As for
                :meth:`Moshi.from_pretrained`.
        """
        options = LoadOptions(
            device=device,
            mimi_device=mimi_device,
            dtype=dtype,
            quantize=quantize,
            lora=lora,
            kv_dtype=kv_dtype,
            config=config,
            revision=revision,
            cache_dir=cache_dir,
            progress=progress,
        )
        return cls(*loading.load_transcriber(source, mimi, tokenizer, options))

    @property
    def config(self) -> LmConfig:
        """The sizes, in the released schema."""
        return self.moshi.config

    @property
    def num_codebooks_in(self) -> int:
        """Codebooks that a step takes (32)."""
        return self.moshi.num_codebooks_in

    @property
    def num_heads(self) -> int:
        """Extra heads, each of which tells of pauses over a stretch of time (4); 0 if the model has
        none."""
        return self.moshi.extra_heads

    @property
    def delay_seconds(self) -> float:
        """Seconds from a sound to the text of it (0.5)."""
        return float(self.config["stt_config"]["audio_delay_seconds"])

    @property
    def prefix_seconds(self) -> float:
        """Seconds of silence that the model wants before a recording (0)."""
        return float(self.config["stt_config"]["audio_silence_prefix_seconds"])

    def __repr__(self) -> str:
        return f"SpeechToText({self.moshi!r})"

    def stream(self, slots: int = 1) -> SpeechToTextStream:
        """A stream of ``slots`` independent transcriptions over these weights; each takes the
        likeliest token at every step.

        Raises:
            InputError: A number of slots that no stream has.
        """
        return SpeechToTextStream(self, self.moshi.stream(slots, seed=0, temp=0.0, temp_text=0.0))

    def transcribe(
        self,
        source: NDArray[np.float32] | AudioReader | str | PathLike[str],
        *,
        progress: Progress | None = None,
    ) -> list[Word]:
        """The words of a whole recording, of any length, in bounded memory.

        As the reference does, silence is put behind the recording (the model's delay and a second)
        and, if the model wants it, before; and the first frame is given to the model twice.

        Args:
            source: float32 ``[T]`` at 24 kHz; or the path of an audio file of any rate (``-`` is
                standard input), or one that is open.
            progress: Called now and then with (frames done, frames in all), frames of 80 ms; the
                second is 0 where it is not known.

        Returns:
            Words with ``text``, ``start`` and ``stop`` in seconds from the beginning of the
            recording; ``stop`` is ``None`` where the model does not tell.

        Raises:
            InputError: Not an array of that kind, no samples, or values that are not finite.
            AudioFileError: The file is missing, damaged, or no audio.
            CheckpointNotFoundError: The model came without a codec or a tokenizer.
        """
        mimi, tokenizer = self._parts()
        if isinstance(source, str | PathLike):
            with AudioReader(source) as reader:
                return self.transcribe(reader, progress=progress)
        if isinstance(source, AudioReader):
            count = source.frames_at(mimi.sample_rate, mimi.frame_size) or 0
            pieces = _resampled(source, mimi.sample_rate)
            return self._words(mimi, tokenizer, pieces, count, source.name, progress)
        samples = _arrays.block(source)
        total = -(-len(samples) // mimi.frame_size)
        return self._words(mimi, tokenizer, iter([samples]), total, "pcm", progress)

    def _parts(self) -> tuple[Mimi, Tokenizer]:
        """What transcribing recordings needs beside the language model."""
        for name, part in (("codec", self.mimi), ("tokenizer", self.tokenizer)):
            if part is None:
                option = {"codec": "mimi", "tokenizer": "tokenizer"}[name]
                raise CheckpointNotFoundError(
                    f"there is no {name} beside the model, without which no recording can be "
                    f"transcribed; name one with {option}= (--{option})"
                )
        assert self.mimi is not None
        assert self.tokenizer is not None
        return self.mimi, self.tokenizer

    def _words(
        self,
        mimi: Mimi,
        tokenizer: Tokenizer,
        pieces: Iterator[NDArray[np.float32]],
        total: int,
        name: str,
        progress: Progress | None,
    ) -> list[Word]:
        """The words of audio that comes in pieces at the codec's rate."""
        # In the time of the model, which begins with the silence before the recording.
        words = Words(tokenizer, self.delay_seconds, steps=1)
        found = WordList(earlier=int(self.prefix_seconds * mimi.sample_rate) / mimi.sample_rate)
        codec, stream = mimi.stream(), self.stream()
        done = 0
        for chunk in self._chunks(mimi, pieces, name):
            codes = codec.encode(chunk[None, None])
            for column in range(codes.shape[2]):
                if done == 0:
                    # The model never looks at the codes of its first step.
                    stream.step(codes[:, :, column])
                token = int(stream.step(codes[:, :, column]).text[0])
                for event in words.push(token):
                    found.add(event)
                done += 1
            if progress is not None:
                progress(min(done, total) if total else done, total)
        return found.words

    def _chunks(
        self, mimi: Mimi, pieces: Iterator[NDArray[np.float32]], name: str
    ) -> Iterator[NDArray[np.float32]]:
        """Audio between its silences in whole frames, at most :data:`CHUNK_FRAMES` at once; an
        incomplete last frame, which is silence, is left out."""
        rate, size = mimi.sample_rate, mimi.frame_size
        waiting = np.zeros(int(self.prefix_seconds * rate), np.float32)
        heard = 0

        def padded() -> Iterator[NDArray[np.float32]]:
            nonlocal heard
            for piece in pieces:
                heard += len(piece)
                yield piece
            if heard == 0:
                raise InputError(f"{name} holds no audio; give at least one sample")
            yield np.zeros(int((self.delay_seconds + CLOSING_SECONDS) * rate), np.float32)

        for piece in padded():
            waiting = np.concatenate([waiting, piece]) if len(waiting) else piece
            whole = len(waiting) // size * size
            for start in range(0, whole, CHUNK_FRAMES * size):
                yield waiting[start : min(start + CHUNK_FRAMES * size, whole)]
            waiting = waiting[whole:]


class SpeechToTextStream:
    """Running state of ``slots`` transcriptions. Make one with :meth:`SpeechToText.stream`.

    A slot's results depend on its own codes since its last reset and on nothing else, bit for bit
    on the processor. Memory grows with a transcription up to the model's window and stays there,
    however long it goes on.
    """

    def __init__(self, model: SpeechToText, stream: MoshiStream) -> None:
        self._model = model
        self._stream = stream

    @property
    def model(self) -> SpeechToText:
        """The weights."""
        return self._model

    @property
    def slots(self) -> int:
        """Number of transcriptions."""
        return self._stream.slots

    @property
    def steps(self) -> list[int]:
        """Steps of each slot since its last reset."""
        return self._stream.steps

    @property
    def state_bytes(self) -> int:
        """Bytes of keys and values held now, all slots."""
        return self._stream.state_bytes

    def step(
        self, codes: NDArray[Any], active: Sequence[bool] | NDArray[Any] | None = None
    ) -> SpeechToTextOutput:
        """One frame of every active slot.

        Args:
            codes: Integers ``[slots, K]``: a column of the codec, with at least
                :attr:`SpeechToText.num_codebooks_in` codebooks (more are cut off). The first step
                of a transcription does not look at them, as in the reference; give the first column
                twice if nothing may be lost.
            active: One boolean per slot; all if left out. Paused slots keep their state.

        Raises:
            InputError: Wrong type, shape or mask, or a code outside the codebook. Nothing has
                changed then.
        """
        given = check.tokens("codes", codes, (self.slots, None))
        out = self._stream.step(given, active)
        return SpeechToTextOutput(
            text=out.step_text_tokens,
            heads=np.ascontiguousarray(out.heads[:, :, 0]),
            text_logits=self._stream.text_logits,
        )

    def reset(self, slots: int | Sequence[int] | NDArray[Any] | None = None) -> None:
        """Begins new transcriptions in one, several, or all slots.

        Raises:
            InputError: A slot number outside ``0..slots``.
        """
        self._stream.reset(slots)


def _resampled(reader: AudioReader, rate: int) -> Iterator[NDArray[np.float32]]:
    """The samples of a file at another rate, in blocks."""
    if reader.sample_rate == rate:
        yield from reader.blocks()
        return
    resampler = Resampler(reader.sample_rate, rate)
    for block in reader.blocks():
        yield resampler.process(block)
    yield resampler.finish()
