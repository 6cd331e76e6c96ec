"""Moshi, the full-duplex language model: user codes in, own codes and text out, one frame at a
time."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kaiwa import _arrays, _native
from kaiwa import _lm_arguments as check
from kaiwa.checkpoints import moshi as checkpoints
from kaiwa.errors import InputError
from kaiwa.load_options import LoadOptions, Progress

Ints = NDArray[np.int32]


class LmConfig(Mapping[str, Any]):
    """A language model's sizes: a read-only mapping in the released schema, also by attribute
    (``config.dim``)."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = MappingProxyType(dict(values))

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["_values"][name]
        except KeyError:
            raise AttributeError(f"the configuration has no entry {name!r}") from None

    def __repr__(self) -> str:
        return f"LmConfig({dict(self._values)!r})"


@dataclass(frozen=True)
class Sampling:
    """Sampling settings of a slot; a temperature of 0 always takes the likeliest token.

    The defaults are what every part of the package uses where neither the caller nor the model's
    repository says otherwise.
    """

    temp: float = _native.DEFAULT_SAMPLING[0]
    temp_text: float = _native.DEFAULT_SAMPLING[1]
    top_k: int = _native.DEFAULT_SAMPLING[2]
    top_k_text: int = _native.DEFAULT_SAMPLING[3]


@dataclass(frozen=True, eq=False)
class StepOutput:
    """What a step gives; unpacks into ``text, audio, ready``. Slots that were paused, or have no
    complete frame yet, hold -2."""

    #: int32 ``[slots]``: text token of the frame that became complete.
    text: Ints
    #: int32 ``[slots, dep_q]``: codes of the frame that became complete.
    audio: Ints
    #: bool ``[slots]``: whether a frame was completed.
    ready: NDArray[np.bool_]
    #: int32 ``[slots]``: text token chosen at this step.
    step_text_tokens: Ints
    #: int32 ``[slots, dep_q]``: codes chosen at this step. Codebooks are delayed against each
    #: other, so they belong to different frames.
    step_audio_tokens: Ints
    #: float32 ``[slots, heads, classes]``: probabilities of the extra heads of models that have
    #: some (speech to text), of which each head's add up to 1; 0 for paused slots.
    heads: NDArray[np.float32]

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return iter((self.text, self.audio, self.ready))


class Moshi:
    """The language model's weights: immutable, shared by every stream made from them, safe to use
    from several threads. Make one with :meth:`from_pretrained`."""

    def __init__(self, native: _native.Moshi, config: LmConfig) -> None:
        self._native = native
        self._config = config

    @classmethod
    def from_pretrained(
        cls,
        source: str | PathLike[str],
        *,
        device: str = "auto",
        dtype: Any = None,
        quantize: Any = None,
        lora: str | PathLike[str] | None = None,
        kv_dtype: Any = None,
        config: Mapping[str, Any] | str | PathLike[str] | None = None,
        revision: str | None = None,
        cache_dir: str | PathLike[str] | None = None,
        progress: Progress | None = None,
    ) -> Moshi:
        """Loads a language model in any published format.

        Args:
            source: A repository (``"kyutai/moshika-candle-q8"``, ``"hf://OWNER/REPO/FILE"``), a
                folder, or a file: safetensors of the PyTorch, Candle or MLX runtimes, or GGUF.
                ``"demo"`` is the small trained model that comes with Kaiwa;
                ``"synth:tiny"`` (or ``300m``, ``1b``, ``7b``, ``stt-tiny``, ``stt-1b``) is random
                weights made in memory.
            device: ``"auto"`` is the first CUDA device if this build has CUDA and the device can be
                used, else the first Metal device in the same way, else the processor; or one by
                name: ``"cpu"``, ``"cuda"``, ``"cuda:N"``, ``"metal"``, ``"metal:N"``, or
                ``"candle-cpu"`` (Candle's operators on the processor, for comparison).
            dtype: ``None`` keeps the file's own form, quantised forms included; ``"float32"`` and
                ``"bfloat16"`` dequantise.
            quantize: ``"int8"`` or ``"int4"`` rounds matrices while loading (32 values to a
                scale); files that are as coarse already stay as they are.
            lora: An adapter of moshi-finetune: a folder, file or repository with its config.json.
            kv_dtype: Storage of keys and values: ``"float32"``, ``"bfloat16"`` or ``"int8"``;
                ``None`` is float32 where the weights are float32, by ``dtype`` or in their file,
                and bfloat16 otherwise.
            config: Sizes as a dict or the path of a JSON file; by default the config.json beside
                the weights, else the released 7B.
            revision: Branch, tag or commit, if a repository is named.
            cache_dir: Where downloads are kept; the Hugging Face default if ``None``.
            progress: Called now and then with (bytes done, bytes in all).

        Raises:
            CheckpointNotFoundError: A file or folder does not exist.
            DownloadError: A repository cannot be read.
            CheckpointError: A file is damaged, foreign, or does not fit the configuration.
            DeviceError: The device cannot be used, or memory does not suffice.
            InputError: An option has a wrong value.
        """
        return cls.load(
            source,
            LoadOptions(
                device=device,
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

    @classmethod
    def load(cls, source: str | PathLike[str], options: LoadOptions) -> Moshi:
        """:meth:`from_pretrained` with its options in one object."""
        if isinstance(source, str) and source.startswith("synth:"):
            refuse_for_random(source, options)
            return cls.from_files(_native.LmFiles.random(source.removeprefix("synth:"), 0), options)
        return cls.from_files(open_files(find_files(source, options)), options)

    @classmethod
    def from_files(cls, files: _native.LmFiles, options: LoadOptions) -> Moshi:
        """:meth:`load` for an open checkpoint."""
        native = _native.Moshi.load(
            files,
            options.device,
            options.dtype,
            options.quantize,
            options.kv_dtype,
            options.progress,
        )
        return cls(native, LmConfig(json.loads(files.config_json)))

    @property
    def config(self) -> LmConfig:
        """The sizes, in the released schema."""
        return self._config

    @property
    def num_codebooks_in(self) -> int:
        """Codebooks of the user that a step takes (8)."""
        return self._native.num_codebooks_in

    @property
    def dep_q(self) -> int:
        """Codebooks that a step gives (8)."""
        return self._native.dep_q

    @property
    def extra_heads(self) -> int:
        """Heads beside the text's, which tell of pauses in what is heard; 0 for most models."""
        return self._native.extra_heads[0]

    @property
    def card(self) -> int:
        """Entries of a codebook (2048). As an input, the number ``card`` itself stands for the time
        before the conversation."""
        return self._native.card

    @property
    def text_card(self) -> int:
        """Text vocabulary (32 000)."""
        return self._native.text_card

    @property
    def max_delay(self) -> int:
        """Steps after which a frame is complete (1)."""
        return self._native.max_delay

    @property
    def context(self) -> int:
        """Steps that attention sees (3000)."""
        return int(self._config["context"])

    @property
    def frame_rate(self) -> float:
        """Steps per second (12.5)."""
        return 12.5

    @property
    def device(self) -> str:
        """Where the arithmetic runs, e.g. ``"cpu"``."""
        return self._native.device

    @property
    def dtype(self) -> str:
        """How matrices are held: ``"float32"``, ``"bfloat16"``, ``"int8"`` or ``"int4"``."""
        return self._native.weights

    @property
    def kv_dtype(self) -> str:
        """How keys and values are stored."""
        return self._native.kv_dtype

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights in memory."""
        return self._native.weight_bytes

    @property
    def step_bytes(self) -> list[tuple[str, int]]:
        """Bytes of weights that a step reads, by stage; empty where it is not known."""
        return self._native.step_bytes

    @property
    def default_sampling(self) -> Sampling:
        """What the repository asks for (``lm_gen_config``), else the defaults of
        :class:`Sampling`."""
        return _sampling(self._native.default_sampling)

    def __repr__(self) -> str:
        return (
            f"Moshi(dim={self._config['dim']}, num_layers={self._config['num_layers']}, "
            f"dtype={self.dtype!r}, kv_dtype={self.kv_dtype!r}, device={self.device!r})"
        )

    def stream(
        self,
        slots: int = 1,
        seed: int | Sequence[int] | None = None,
        temp: float | Sequence[float] = Sampling.temp,
        temp_text: float | Sequence[float] = Sampling.temp_text,
        top_k: int | Sequence[int] = Sampling.top_k,
        top_k_text: int | Sequence[int] = Sampling.top_k_text,
        conditions: Mapping[str, str | None] | None = None,
    ) -> MoshiStream:
        """A stream of ``slots`` independent conversations over these weights.

        Args:
            slots: Number of conversations, fixed for the stream's life.
            seed: One number for every slot (same seed, same tokens, whatever else is in the
                batch), or one per slot; ``None`` draws a fresh one per slot (see
                :attr:`MoshiStream.seeds`).
            temp: Temperature of the codebooks, one or one per slot; 0 is greedy.
            temp_text: Temperature of the text.
            top_k: Candidates of a codebook's draw; 0 means all.
            top_k_text: Candidates of the text's draw.
            conditions: Values of the model's conditioners, e.g. ``{"description": "good"}``.

        Raises:
            InputError: A number outside its range, or a list of another length than ``slots``.
        """
        seeds, settings = check.stream(slots, seed, temp, temp_text, top_k, top_k_text)
        stream = MoshiStream(self, self._native.stream(seeds, settings))
        for name, value in (conditions or {}).items():
            for slot in range(len(seeds)):
                stream.set_condition(slot, name, value)
        return stream


class MoshiStream:
    """Running state of ``slots`` conversations. Make one with :meth:`Moshi.stream`.

    A slot's tokens depend on its own inputs, seed and settings since its last reset, and on
    nothing else, bit for bit on the processor. Memory grows with a conversation up to the model's
    window and stays there, however long it goes on.
    """

    def __init__(self, moshi: Moshi, native: _native.MoshiStream) -> None:
        self._moshi = moshi
        self._native = native

    @property
    def moshi(self) -> Moshi:
        """The weights."""
        return self._moshi

    @property
    def slots(self) -> int:
        """Number of conversations."""
        return self._native.slots

    @property
    def state_bytes(self) -> int:
        """Bytes of keys and values held now, all slots."""
        return self._native.state_bytes

    @property
    def slot_bytes(self) -> list[int]:
        """Bytes of keys and values held now, per slot."""
        return self._native.slot_bytes

    @property
    def steps(self) -> list[int]:
        """Steps of each slot since its last reset."""
        return self._native.steps

    @property
    def seeds(self) -> list[int]:
        """Seed of each slot."""
        return self._native.seeds

    @property
    def text_logits(self) -> NDArray[np.float32]:
        """Text logits of the last step, float32 ``[slots, text_card]``; zeros for idle slots."""
        return self._native.text_logits()

    @property
    def audio_logits(self) -> NDArray[np.float32]:
        """Audio logits of the last step, float32 ``[slots, dep_q, card]``; zeros for idle slots."""
        return self._native.audio_logits()

    @property
    def stage_seconds(self) -> dict[str, float]:
        """Seconds spent in each stage since :meth:`clear_stage_seconds`."""
        return dict(self._native.stage_seconds)

    def clear_stage_seconds(self) -> None:
        """Starts the count of :attr:`stage_seconds` anew."""
        self._native.clear_stage_seconds()

    def step(
        self,
        user_codes: NDArray[Any] | Sequence[Sequence[int]],
        active: Sequence[bool] | NDArray[Any] | None = None,
        force_text: Sequence[int | None] | NDArray[Any] | None = None,
        force_audio: Sequence[Sequence[int | None]] | NDArray[Any] | None = None,
    ) -> StepOutput:
        """One frame of every active slot.

        Args:
            user_codes: Integers ``[slots, K]`` with at least :attr:`Moshi.num_codebooks_in`
                columns (more are cut off): codes; ``-1`` adds nothing to the model's input;
                ``card`` is the token that stands for the time before the conversation. The first
                step of a conversation does not look at them, as in the reference.
            active: One boolean per slot; all if left out. Paused slots keep their state.
            force_text: A text token per slot to be said instead of a sampled one; ``None`` or
                negative leaves the choice to the model.
            force_audio: Integers ``[slots, dep_q]`` to be spoken instead; ``None`` or negative
                leaves the choice to the model.

        Raises:
            InputError: Wrong type, shape or mask, or a token outside its vocabulary. Nothing has
                changed then.
        """
        codes = check.tokens("user_codes", user_codes, (self.slots, None))
        text = audio = None
        if force_text is not None:
            text = check.forced("force_text", force_text, (self.slots,))
        if force_audio is not None:
            audio = check.forced("force_audio", force_audio, (self.slots, self._moshi.dep_q))
        out = self._native.step(codes, _arrays.mask(active, self.slots), text, audio)
        return StepOutput(*out)

    def reset(
        self,
        slots: int | Sequence[int] | NDArray[Any] | None = None,
        *,
        seed: int | None = None,
    ) -> None:
        """Returns slots to their beginning: one, several, or all if left out; with the same seed,
        unless another is given.

        Raises:
            InputError: A slot number outside ``0..slots``.
        """
        chosen = _arrays.slot_list(slots, self.slots)
        fresh = None if seed is None else check.seed("seed", seed)
        self._native.reset(chosen)
        if fresh is not None:
            for slot in range(self.slots) if chosen is None else chosen:
                self._native.set_seed(slot, fresh)

    def set_sampling(self, slot: int, sampling: Sampling) -> None:
        """Changes the settings of a slot from the next step on."""
        settings = (
            check.number("temp", sampling.temp),
            check.number("temp_text", sampling.temp_text),
            check.count("top_k", sampling.top_k),
            check.count("top_k_text", sampling.top_k_text),
        )
        self._native.set_sampling(self._slot(slot), settings)

    def sampling(self, slot: int) -> Sampling:
        """The settings of a slot."""
        return _sampling(self._native.sampling(self._slot(slot)))

    def set_condition(self, slot: int, name: str, value: str | None) -> None:
        """Chooses the value of a conditioner for a slot; ``None`` means absent."""
        self._native.set_condition(self._slot(slot), name, value)

    def prefill_silence(self, steps: int) -> None:
        """Moves every slot on by ``steps`` positions without computing them, for benchmarks of a
        full window; what is said afterwards means nothing."""
        self._native.prefill_silence(check.count("steps", steps))

    def _slot(self, slot: int) -> int:
        chosen = _arrays.slot_list(slot, self.slots)
        if chosen is None or len(chosen) != 1:
            raise InputError(f"slot is {slot!r}; pass one slot number")
        return chosen[0]


def refuse_for_random(source: str, options: LoadOptions) -> None:
    """Raises InputError for options that mean nothing without files."""
    for name in ("lora", "config", "revision"):
        if getattr(options, name) is not None:
            raise InputError(f"{name}= means nothing for the random weights of {source}; leave it")


def find_files(source: str | PathLike[str], options: LoadOptions) -> checkpoints.MoshiCheckpoint:
    """Finds (and, for a repository, downloads) the files of a language model."""
    return checkpoints.find(
        source,
        revision=options.revision,
        cache_dir=options.cache_dir,
        config=options.config,
        lora=options.lora,
    )


def open_files(found: checkpoints.MoshiCheckpoint) -> _native.LmFiles:
    """Opens the files of a source; what is odd about them becomes a warning."""
    paths = [str(path) for path in found.weights]
    files = _native.LmFiles.open(paths, found.config_json, found.lora, found.lora_config_json)
    for text in files.warnings:
        warnings.warn(text, stacklevel=3)
    return files


def _sampling(settings: tuple[float, float, int, int]) -> Sampling:
    """Settings of the core, which keeps float32: 0.8 comes back from it as 0.800000012."""
    temp, temp_text, top_k, top_k_text = settings
    return Sampling(round(temp, 6), round(temp_text, 6), top_k, top_k_text)
