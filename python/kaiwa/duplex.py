"""A whole conversation: codec, language model and tokenizer in one step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kaiwa import _arrays, _native, loading
from kaiwa import _lm_arguments as check
from kaiwa.errors import InputError
from kaiwa.load_options import LoadOptions, Progress
from kaiwa.mimi import Mimi
from kaiwa.moshi import Moshi, Sampling
from kaiwa.text import Tokenizer


@dataclass(frozen=True, eq=False)
class DuplexOutput:
    """What a step gives; unpacks into ``audio, text``."""

    #: float32 ``[slots, frame_size]``: the frame that is now complete; 0 where there is none.
    audio: NDArray[np.float32]
    #: Per slot the piece of text that belongs to the frame, often ``""``; always ``""`` without
    #: a tokenizer.
    text: list[str]
    #: bool ``[slots]``: whether a frame was completed.
    ready: NDArray[np.bool_]
    #: int32 ``[slots]``: text token of the frame; -2 where there is none.
    text_tokens: NDArray[np.int32]

    def __iter__(self) -> Iterator[Any]:
        return iter((self.audio, self.text))


class Duplex:
    """``slots`` conversations: 80 ms of what each caller says in, 80 ms of what the model says
    out, with the text of it. Slots join, pause and reset at any step and do not disturb each
    other.

    Args:
        moshi: The language model.
        mimi: The codec, giving at least :attr:`Moshi.num_codebooks_in` codebooks.
        tokenizer: For text; without one only tokens are given.
        slots, seed, temp, temp_text, top_k, top_k_text, conditions: As for :meth:`Moshi.stream`.
        prime: The model never looks at the codes of a conversation's first step. ``False``
            follows the reference's server: the first frame of a caller is lost, and frame ``n``
            comes out ``moshi.max_delay`` steps after frame ``n`` went in. ``True`` follows its
            file mode: the first codes are given twice, so that nothing is lost and frame ``n``
            comes out with frame ``n`` (for a delay of one).

    Raises:
        InputError: The three do not fit together.
    """

    def __init__(
        self,
        moshi: Moshi,
        mimi: Mimi,
        tokenizer: Tokenizer | None = None,
        slots: int = 1,
        seed: int | Sequence[int] | None = None,
        temp: float | Sequence[float] = Sampling.temp,
        temp_text: float | Sequence[float] = Sampling.temp_text,
        top_k: int | Sequence[int] = Sampling.top_k,
        top_k_text: int | Sequence[int] = Sampling.top_k_text,
        conditions: Mapping[str, str | None] | None = None,
        prime: bool = False,
    ) -> None:
        if mimi.cardinality != moshi.card:
            raise InputError(
                f"the codec has {mimi.cardinality} entries a codebook, the model expects "
                f"{moshi.card}; use the codec that belongs to the model"
            )
        if mimi.num_codebooks < moshi.num_codebooks_in or mimi.max_codebooks < moshi.dep_q:
            raise InputError(
                f"the codec gives {mimi.num_codebooks} codebooks, the model listens to "
                f"{moshi.num_codebooks_in} and speaks {moshi.dep_q}; load it with num_codebooks="
                f"{max(moshi.num_codebooks_in, 1)}"
            )
        if tokenizer is not None and tokenizer.pieces != moshi.text_card:
            raise InputError(
                f"the tokenizer has {tokenizer.pieces} pieces, the model's text vocabulary is "
                f"{moshi.text_card}; use the tokenizer that belongs to the model"
            )
        if moshi.dep_q == 0:
            raise InputError(
                "this model does not speak (dep_q is 0); use kaiwa.SpeechToText for it"
            )
        self.moshi = moshi
        self.mimi = mimi
        self.tokenizer = tokenizer
        seeds, settings = check.stream(slots, seed, temp, temp_text, top_k, top_k_text)
        self._native = _native.Duplex(moshi._native, mimi._native, seeds, settings, bool(prime))
        for name, value in (conditions or {}).items():
            for slot in range(self.slots):
                self._native.set_condition(slot, name, value)
        self._text = [tokenizer.stream() if tokenizer else None for _ in range(self.slots)]

    @classmethod
    def from_pretrained(
        cls,
        source: str | PathLike[str],
        *,
        mimi: str | PathLike[str] | None = None,
        tokenizer: str | PathLike[str] | None = None,
        slots: int = 1,
        seed: int | Sequence[int] | None = None,
        temp: float | Sequence[float] | None = None,
        temp_text: float | Sequence[float] | None = None,
        top_k: int | Sequence[int] | None = None,
        top_k_text: int | Sequence[int] | None = None,
        conditions: Mapping[str, str | None] | None = None,
        prime: bool = False,
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
    ) -> Duplex:
        """Loads a language model, and the codec and tokenizer beside it (or those named).

        Sampling settings that are left out are those of the repository
        (:attr:`Moshi.default_sampling`). A model without a tokenizer beside it gives tokens but
        no text. ``mimi_device`` is the device of the codec, ``None`` that of the model. The other
        arguments and errors are those of :meth:`Moshi.from_pretrained`.
        """
        parts = loading.load(
            source,
            mimi=mimi,
            tokenizer=tokenizer,
            options=LoadOptions(
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
            ),
        )
        defaults = parts.moshi.default_sampling
        return cls(
            parts.moshi,
            parts.mimi,
            parts.tokenizer,
            slots=slots,
            seed=seed,
            temp=defaults.temp if temp is None else temp,
            temp_text=defaults.temp_text if temp_text is None else temp_text,
            top_k=defaults.top_k if top_k is None else top_k,
            top_k_text=defaults.top_k_text if top_k_text is None else top_k_text,
            conditions=conditions,
            prime=prime,
        )

    @property
    def slots(self) -> int:
        """Number of conversations."""
        return self._native.slots

    @property
    def frame_size(self) -> int:
        """Samples of a frame (1920)."""
        return self.mimi.frame_size

    @property
    def sample_rate(self) -> int:
        """Samples per second (24 000)."""
        return self.mimi.sample_rate

    @property
    def seeds(self) -> list[int]:
        """Seed of each slot."""
        return self._native.seeds

    @property
    def state_bytes(self) -> int:
        """Bytes of running state of all slots, codec and language model."""
        return self._native.state_bytes

    @property
    def stage_seconds(self) -> dict[str, float]:
        """Seconds spent in the codec's encoder, the language model, and the codec's decoder."""
        return dict(self._native.stage_seconds)

    def step(
        self,
        pcm: NDArray[np.float32],
        active: Sequence[bool] | NDArray[Any] | None = None,
        force_text: Sequence[int | None] | NDArray[Any] | None = None,
    ) -> DuplexOutput:
        """The next frame of every active slot.

        Args:
            pcm: float32 ``[slots, frame_size]`` at 24 kHz, usually in -1..1. Rows of paused slots
                are not looked at.
            active: One boolean per slot; all if left out. Paused slots keep their state.
            force_text: As for :meth:`MoshiStream.step`.

        Raises:
            InputError: Wrong type, shape or mask, or NaN or infinity in an active row.
        """
        slots, size = self.slots, self.frame_size
        if not isinstance(pcm, np.ndarray) or pcm.shape not in ((slots, size), (slots, 1, size)):
            shape = getattr(pcm, "shape", type(pcm).__name__)
            raise InputError(
                f"pcm is {shape}, but a float32 array [{slots}, {size}] was wanted: one frame for "
                "every slot (mask idle ones with active=)"
            )
        on = _arrays.mask(active, slots) or [True] * slots
        frames = _arrays.stream_audio(pcm.reshape(slots, 1, size), slots, size)
        forced = None if force_text is None else check.forced("force_text", force_text, (slots,))
        audio, tokens, ready = self._native.step(frames, on, forced)
        text = [
            words.push(int(token)) if words is not None and complete else ""
            for words, token, complete in zip(self._text, tokens, ready, strict=True)
        ]
        return DuplexOutput(audio=audio, text=text, ready=ready, text_tokens=tokens)

    def reset(
        self,
        slots: int | Sequence[int] | NDArray[Any] | None = None,
        *,
        seed: int | None = None,
    ) -> None:
        """Begins new conversations in one, several, or all slots.

        Raises:
            InputError: A slot number outside ``0..slots``.
        """
        chosen = _arrays.slot_list(slots, self.slots)
        fresh = None if seed is None else check.seed("seed", seed)
        self._native.reset(chosen)
        for slot in range(self.slots) if chosen is None else chosen:
            if fresh is not None:
                self._native.set_seed(slot, fresh)
            words = self._text[slot]
            if words is not None:
                words.reset()
