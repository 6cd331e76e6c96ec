"""Mimi, the streaming neural codec: 24 kHz audio to 12.5 code columns a second and back."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kaiwa import _arrays, _native
from kaiwa.checkpoints import mimi as checkpoints
from kaiwa.errors import InputError
from kaiwa.load_options import DTYPES, Progress, check_device, type_name

Window = Literal["streaming", "whole"]


class Mimi:
    """The codec's weights: immutable, shared by every stream made from them, safe to use from
    several threads. Make one with :meth:`from_pretrained`.

    Whole-signal calls (:meth:`encode`, :meth:`decode`) release the interpreter lock, take memory
    in proportion to their arrays only, and stop at Ctrl-C. They give what the reference
    (Kyutai's PyTorch code) gives for a whole signal; a :class:`MimiStream` gives what it gives for
    a stream. The two differ in how far back attention may look once a signal is longer than ten
    seconds.
    """

    def __init__(self, native: _native.Mimi) -> None:
        self._native = native

    @classmethod
    def from_pretrained(
        cls,
        source: str | PathLike[str],
        *,
        num_codebooks: int = 8,
        device: str = "auto",
        dtype: Any = "float32",
        revision: str | None = None,
        cache_dir: str | PathLike[str] | None = None,
        config: Mapping[str, Any] | str | PathLike[str] | None = None,
    ) -> Mimi:
        """Loads a codec.

        Args:
            source: A Hugging Face repository (``"kyutai/mimi"``), a folder, or a ``.safetensors``
                file, in Kyutai's or ``transformers``' naming. ``"demo"`` is the small trained codec
                that comes with Kaiwa; ``"synth:full"`` (the released size) or ``"synth:small"`` is
                random weights made in memory.
            num_codebooks: Codebooks that :meth:`encode` gives out, 1 to the file's (32).
                :meth:`decode` takes any number.
            device: ``"auto"`` is the first CUDA device if this build has CUDA and the device can be
                used, else the first Metal device in the same way, else the processor; or one by
                name: ``"cpu"``, ``"cuda"``, ``"cuda:N"``, ``"metal"``, ``"metal:N"``, or
                ``"candle-cpu"`` (Candle's operators on the processor, for comparison).
            dtype: ``"float32"`` (exact) or ``"bfloat16"`` (half the memory; arithmetic and
                quantiser stay float32).
            revision: Branch, tag or commit of the repository.
            cache_dir: Where downloads are kept; the Hugging Face default if ``None``.
            config: Sizes of the codec, as a dict or the path of a JSON file; by default those
                beside the weights, else the released ones.

        Raises:
            CheckpointNotFoundError: A file or folder does not exist.
            DownloadError: The repository cannot be reached, does not exist, or is gated.
            CheckpointError: A file is damaged, foreign, or does not fit the configuration.
            DeviceError: The device cannot be used.
            InputError: An option has a wrong value.
        """
        books = _arrays.positive("num_codebooks", num_codebooks)
        kind = type_name(dtype) if isinstance(dtype, str) else None
        if kind not in DTYPES:
            raise InputError(f'dtype is {dtype!r}; use "float32" or "bfloat16"')
        check_device(device)
        if isinstance(source, str) and source.startswith("synth:"):
            for name, value in (("config", config), ("revision", revision)):
                if value is not None:
                    raise InputError(f"{name}= means nothing for random weights ({source})")
            from kaiwa.synth.checkpoint import SIZES, write_mimi

            size = source.removeprefix("synth:")
            if size not in SIZES:
                raise InputError(f"source is {source!r}; use synth:full, synth:small or a codec")
            # The file lives for as long as it is read.
            with tempfile.TemporaryDirectory(prefix="kaiwa-") as folder:
                weights = write_mimi(folder, size=size).weights
                return cls.from_pretrained(weights, num_codebooks=books, device=device, dtype=dtype)
        files = checkpoints.find(source, revision=revision, cache_dir=cache_dir, config=config)
        return cls(_native.Mimi.load(files.weights, files.config_json, books, device, kind))

    @property
    def sample_rate(self) -> int:
        """Samples per second (24 000)."""
        return self._native.sample_rate

    @property
    def frame_rate(self) -> float:
        """Code columns per second (12.5)."""
        return self._native.frame_rate

    @property
    def frame_size(self) -> int:
        """Samples per frame (1920)."""
        return self._native.frame_size

    @property
    def num_codebooks(self) -> int:
        """Codebooks that :meth:`encode` gives out."""
        return self._native.num_codebooks

    @property
    def max_codebooks(self) -> int:
        """Codebooks in the file (32)."""
        return self._native.max_codebooks

    @property
    def cardinality(self) -> int:
        """Entries of a codebook (2048); codes are in ``0..cardinality``."""
        return self._native.cardinality

    @property
    def device(self) -> str:
        """Where the arithmetic runs, e.g. ``"cpu"``."""
        return self._native.device

    @property
    def dtype(self) -> str:
        """How the network's weights are held, ``"float32"`` or ``"bfloat16"``."""
        return self._native.dtype

    def __repr__(self) -> str:
        return (
            f"Mimi(num_codebooks={self.num_codebooks}, device={self.device!r}, "
            f"dtype={self.dtype!r})"
        )

    def encode(
        self, pcm: NDArray[np.float32], *, progress: Progress | None = None
    ) -> NDArray[np.int32]:
        """Codes of whole signals.

        Args:
            pcm: float32 ``[T]``, ``[1, T]`` or ``[B, 1, T]`` at :attr:`sample_rate`, usually in
                -1..1. The tail is padded with zeros to a whole frame.
            progress: Called now and then with (frames done, frames in all).

        Returns:
            int32 ``[K, F]``, or ``[B, K, F]`` if there was a batch axis; row 0 is semantic,
            ``F = ceil(T / frame_size)``.

        Raises:
            InputError: Wrong type, shape, or a value that is NaN or infinite.
        """
        rows, batched = _arrays.audio(pcm)
        out = self._native.encode(rows, progress)
        return out if batched else out[0]

    def encode_to_latent(
        self, pcm: NDArray[np.float32], *, progress: Progress | None = None
    ) -> NDArray[np.float32]:
        """The encoder's output before quantisation, float32 ``[D, F]`` or ``[B, D, F]``; arguments
        and errors as for :meth:`encode`."""
        rows, batched = _arrays.audio(pcm)
        out = self._native.encode_to_latent(rows, progress)
        return out if batched else out[0]

    def decode(
        self, codes: NDArray[Any], *, progress: Progress | None = None
    ) -> NDArray[np.float32]:
        """Audio of whole code sequences.

        Args:
            codes: Integers ``[K, F]`` or ``[B, K, F]`` in ``0..cardinality``, with any number of
                codebooks from 1 to :attr:`max_codebooks`.
            progress: Called now and then with (frames done, frames in all).

        Returns:
            float32 ``[1, F * frame_size]``, or ``[B, 1, F * frame_size]`` if there was a batch
            axis. Values may exceed -1..1.

        Raises:
            InputError: Wrong type or shape, or a code outside the codebook.
        """
        rows, batched = _arrays.codes(codes)
        pcm = self._native.decode(rows, progress)
        return pcm[:, None] if batched else pcm

    def stream(self, slots: int = 1, *, window: Window = "streaming") -> MimiStream:
        """A stream of ``slots`` independent conversations over these weights.

        Args:
            slots: Number of conversations, fixed for the stream's life.
            window: ``"streaming"`` follows the reference's streaming mode, frame by frame;
                ``"whole"`` makes the concatenated results equal :meth:`encode` and
                :meth:`decode` of the whole signal, for files too long to hold.
        """
        count = _arrays.positive("slots", slots)
        if not isinstance(window, str):
            raise InputError(f'window is {window!r}; use "streaming" or "whole"')
        return MimiStream(self, self._native.stream(count, window))


class MimiStream:
    """Running encoder and decoder state of ``slots`` conversations. Make one with
    :meth:`Mimi.stream`.

    A slot starts, pauses, resets and ends by itself: its results depend on what it was given since
    its last reset and on nothing else, bit for bit on the processor. Calls from several threads
    wait for each other. There is no warm-up and no delay: a frame in is a column out.
    """

    def __init__(self, mimi: Mimi, native: _native.MimiStream) -> None:
        self._mimi = mimi
        self._native = native

    @property
    def slots(self) -> int:
        """Number of conversations."""
        return self._native.slots

    @property
    def state_bytes(self) -> int:
        """Bytes of running state of all slots, both directions, when fully used."""
        return self._native.state_bytes

    def encode(
        self, pcm: NDArray[np.float32], active: Sequence[bool] | NDArray[Any] | None = None
    ) -> NDArray[np.int32]:
        """The next ``n`` frames of every active slot.

        Args:
            pcm: float32 ``[slots, 1, n * frame_size]``. Rows of paused slots are not looked at.
            active: One boolean per slot; all if left out. Paused slots keep their state.

        Returns:
            int32 ``[slots, K, n]``; -1 in the rows of paused slots. However a signal is cut into
            calls, the codes are the same.

        Raises:
            InputError: Wrong type, shape or mask, or NaN or infinity in an active row. Nothing
                has changed then.
        """
        rows = _arrays.stream_audio(pcm, self.slots, self._mimi.frame_size)
        return self._native.encode(rows, _arrays.mask(active, self.slots))

    def decode(
        self, codes: NDArray[Any], active: Sequence[bool] | NDArray[Any] | None = None
    ) -> NDArray[np.float32]:
        """The audio of the next ``n`` code columns of every active slot.

        Args:
            codes: Integers ``[slots, K, n]``, any number of codebooks. Rows of paused slots are
                not looked at.
            active: One boolean per slot; all if left out. Paused slots keep their state.

        Returns:
            float32 ``[slots, 1, n * frame_size]``; 0 in the rows of paused slots.

        Raises:
            InputError: Wrong type, shape or mask, or a code of an active slot outside the
                codebook. Nothing has changed then.
        """
        rows = _arrays.stream_codes(codes, self.slots)
        return self._native.decode(rows, _arrays.mask(active, self.slots))[:, None]

    def reset(self, slots: int | Sequence[int] | NDArray[Any] | None = None) -> None:
        """Returns slots to their beginning, encoder and decoder: one, several, or all if left out.

        Raises:
            InputError: A slot number outside ``0..slots``.
        """
        self._native.reset(_arrays.slot_list(slots, self.slots))
