"""What users may pass to a language model's stream, checked and brought to the one form that the
core takes."""

from __future__ import annotations

import operator
import secrets
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from kaiwa import _arrays, _native
from kaiwa.errors import InputError

_T = TypeVar("_T")


def per_slot(name: str, value: Any, slots: int, read: Callable[[str, Any], _T]) -> list[_T]:
    """A value for each slot: one that was given for all, or a list with one for each, every one
    checked by `read`."""
    if not _is_row(value):
        return [read(name, value)] * slots
    items = list(value)
    if len(items) != slots:
        raise InputError(
            f"{name} has {len(items)} values; pass one, or one for each of the {slots} slots"
        )
    return [read(name, item) for item in items]


def stream(
    slots: Any, seeds: Any, temp: Any, temp_text: Any, top_k: Any, top_k_text: Any
) -> tuple[list[int], list[tuple[float, float, int, int]]]:
    """A seed and sampling settings for each slot, from the arguments of `Moshi.stream`."""
    total = _arrays.positive("slots", slots)
    # Before the lists below are made for each.
    if total > _native.MAX_SLOTS:
        raise InputError(f"slots is {total}; pass 1 to {_native.MAX_SLOTS}")
    if seeds is None:
        chosen = [secrets.randbits(64) for _ in range(total)]
    else:
        chosen = per_slot("seed", seeds, total, seed)
    settings = zip(
        per_slot("temp", temp, total, number),
        per_slot("temp_text", temp_text, total, number),
        per_slot("top_k", top_k, total, count),
        per_slot("top_k_text", top_k_text, total, count),
        strict=True,
    )
    return chosen, list(settings)


def seed(name: str, value: Any) -> int:
    """A seed: a whole number of 64 bits."""
    return _whole(name, value, 2**64, "2**64 - 1")


def count(name: str, value: Any) -> int:
    """A whole number of at least 0."""
    return _whole(name, value, 2**31, str(2**31 - 1))


def _whole(name: str, value: Any, end: int, last: str) -> int:
    try:
        found = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        found = -1
    if not 0 <= found < end:
        raise InputError(f"{name} is {value!r}; pass a whole number from 0 to {last}")
    return found


def number(name: str, value: Any) -> float:
    """A temperature."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = -1.0
    if not 0 <= found <= 1e6:
        raise InputError(f"{name} is {value!r}; pass a number from 0 (greedy) to 1000000")
    return found


def forced(name: str, value: Any, shape: tuple[int | None, ...]) -> NDArray[np.int64]:
    """As `tokens`, for forced ones: ``None``, which leaves the choice to the model, is -1."""
    return tokens(name, _without_none(value), shape)


def _without_none(tokens: Any) -> Any:
    if isinstance(tokens, np.ndarray) and tokens.dtype != object:
        return tokens
    try:
        rows = list(tokens)
    except TypeError:  # not a sequence: `tokens` refuses it by its shape
        return tokens
    return [-1 if row is None else _without_none(row) if _is_row(row) else row for row in rows]


def _is_row(value: Any) -> bool:
    return isinstance(value, Sequence | np.ndarray) and not isinstance(value, str)


def tokens(name: str, value: Any, shape: tuple[int | None, ...]) -> NDArray[np.int64]:
    """Integers of a shape, in which ``None`` is any length, as int64."""
    try:
        array = np.asarray(value)
    except ValueError:  # rows of different lengths
        array = np.empty(0, object)
    if array.dtype.kind not in "iu":
        raise InputError(
            f"{name} has dtype {array.dtype}, but integers in rows of one length were wanted"
        )
    fits = array.ndim == len(shape) and all(
        want is None or have == want for have, want in zip(array.shape, shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("K" if want is None else str(want) for want in shape)
        raise InputError(
            f"{name} has shape {list(array.shape)}, but [{wanted}] was wanted; give every slot a "
            "row and mask idle ones with active="
        )
    if array.dtype == np.uint64:
        # What int64 cannot hold is no token either way, and must not come out negative.
        array = np.minimum(array, np.iinfo(np.int64).max)
    return array.astype(np.int64)
