"""What users may pass as audio and codes, brought to the one form the core takes."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kaiwa.errors import InputError


def positive(name: str, value: Any) -> int:
    """`value` as a positive whole number; `InputError` otherwise."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or not 0 < number < 2**31:
        raise InputError(f"{name} is {value!r}; pass a whole number of at least 1")
    return number


def _array(name: str, value: Any) -> NDArray[Any]:
    if not isinstance(value, np.ndarray):
        raise InputError(
            f"{name} is a {type(value).__name__}, but a numpy array was wanted; "
            f"pass numpy.asarray({name})"
        )
    return value


def _float32(name: str, value: Any) -> NDArray[np.float32]:
    array = _array(name, value)
    if array.dtype != np.float32:
        raise InputError(
            f"{name} has dtype {array.dtype}, but float32 was wanted; pass "
            f"{name}.astype(numpy.float32) (integers also need scaling to -1..1)"
        )
    return array


def audio(pcm: Any) -> tuple[NDArray[np.float32], bool]:
    """`[T]`, `[1, T]` or `[B, 1, T]` as `[B, T]`, and whether it had a batch axis."""
    array = _float32("pcm", pcm)
    shape = array.shape
    if array.ndim == 1:
        return array[None], False
    if array.ndim in (2, 3) and shape[-2] == 1:
        return array.reshape(-1, shape[-1]) if array.size else _empty(shape), array.ndim == 3
    hint = "the codec is mono: average the channels, pcm.mean(axis=-2, keepdims=True)"
    if array.ndim not in (1, 2, 3):
        hint = "remove or add axes"
    raise InputError(
        f"pcm has shape {list(shape)}, but [T], [1, T] or [B, 1, T] was wanted; {hint}"
    )


def _empty(shape: tuple[int, ...]) -> NDArray[np.float32]:
    raise InputError(f"pcm is empty (shape {list(shape)}); pass at least one sample")


def block(pcm: Any) -> NDArray[np.float32]:
    """`[N]` of finite samples; `N` may be 0."""
    array = _float32("pcm", pcm)
    if array.ndim != 1:
        raise InputError(f"pcm has shape {list(array.shape)}, but [N] was wanted; pass one channel")
    if not np.isfinite(array).all():
        at = int(np.flatnonzero(~np.isfinite(array))[0])
        raise InputError(f"pcm holds {array[at]} at sample {at}; clean the audio first")
    return array


def stream_audio(pcm: Any, slots: int, frame_size: int) -> NDArray[np.float32]:
    """`[slots, 1, n*frame_size]` as `[slots, n*frame_size]`."""
    array = _float32("pcm", pcm)
    shape = array.shape
    wanted = f"[{slots}, 1, n*{frame_size}]"
    if array.ndim != 3 or shape[:2] != (slots, 1) or shape[2] == 0 or shape[2] % frame_size:
        raise InputError(
            f"pcm has shape {list(shape)}, but {wanted} with n of at least 1 was wanted; give "
            "every slot a row (mask idle ones with active=) and whole frames (keep the rest for "
            "the next call, or pad the end of the signal with zeros)"
        )
    return array[:, 0]


def codes(value: Any, name: str = "codes") -> tuple[NDArray[np.int64], bool]:
    """`[K, F]` or `[B, K, F]` of any integer type as `[B, K, F]` int64, and whether it had a batch
    axis."""
    array = _array(name, value)
    if array.dtype.kind not in "iu":
        raise InputError(
            f"{name} has dtype {array.dtype}, but integers were wanted; pass "
            f"{name}.astype(numpy.int32)"
        )
    if array.ndim not in (2, 3):
        raise InputError(
            f"{name} has shape {list(array.shape)}, but [K, F] or [B, K, F] was wanted "
            "(K codebooks, F frames); add or remove axes"
        )
    if array.size == 0:
        raise InputError(f"{name} is empty (shape {list(array.shape)}); pass at least one frame")
    if array.dtype == np.uint64 and int(array.max()) > np.iinfo(np.int64).max:
        raise InputError(f"{name} holds {array.max()}, which is no code of any codebook")
    wide = array.astype(np.int64)
    return (wide, True) if wide.ndim == 3 else (wide[None], False)


def stream_codes(value: Any, slots: int) -> NDArray[np.int64]:
    """`[slots, K, n]` of any integer type as int64."""
    wide, batched = codes(value)
    if not batched or wide.shape[0] != slots:
        raise InputError(
            f"codes have shape {list(value.shape)}, but [{slots}, K, n] was wanted; give every "
            "slot a row and mask idle ones with active="
        )
    return wide


def mask(active: Any, slots: int) -> list[bool] | None:
    """One flag a slot, or `None` for all."""
    if active is None:
        return None
    try:
        flags = np.asarray(active)
    except ValueError:  # rows of different lengths
        flags = np.empty(0)
    is_bool = flags.dtype == np.bool_
    is_flag = flags.dtype.kind in "iu" and bool(np.isin(flags, (0, 1)).all())
    if flags.shape != (slots,) or not (is_bool or is_flag):
        raise InputError(
            f"active is {active!r}, but {slots} booleans were wanted (one per slot); leave it out "
            "for all slots"
        )
    return [bool(flag) for flag in flags]


def slot_list(slots: Any, count: int) -> list[int] | None:
    """A slot number or a sequence of them, in `0..count`; `None` for all."""
    if slots is None:
        return None
    is_list = isinstance(slots, Sequence) or (isinstance(slots, np.ndarray) and slots.ndim > 0)
    items: list[Any] = list(slots) if is_list else [slots]
    chosen = []
    for item in items:
        try:
            number = -1 if isinstance(item, bool) else operator.index(item)
        except TypeError:
            number = -1
        if not 0 <= number < count:
            raise InputError(
                f"slots is {slots!r}, but slot numbers in 0..{count} were wanted; leave it out to "
                "reset every slot"
            )
        chosen.append(number)
    return chosen
