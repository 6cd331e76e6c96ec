"""How a language model is loaded: the options that every way of loading one takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

from kaiwa.errors import InputError

#: Called now and then with (units done, units in all).
Progress = Callable[[int, int], object]

#: Types that weights can be dequantised to.
DTYPES = ("float32", "bfloat16")
#: What matrices can be rounded to while loading.
QUANTIZE = ("int8", "int4")
#: How keys and values can be stored.
KV_DTYPES = ("float32", "bfloat16", "int8")

_SHORT = {"f32": "float32", "bf16": "bfloat16", "q8": "int8", "q4": "int4"}


@dataclass(frozen=True)
class LoadOptions:
    """The keywords of :meth:`kaiwa.Moshi.from_pretrained`, whose documentation says what each is.

    :meth:`kaiwa.Duplex.from_pretrained` and :class:`kaiwa.Engine` take the same ones, and
    ``mimi_device``: the device of the codec, which is that of the model if it is ``None``.

    Raises:
        InputError: An option has a wrong type, or a value that it cannot have.
    """

    device: str = "auto"
    dtype: Any = None
    quantize: Any = None
    lora: str | PathLike[str] | None = None
    kv_dtype: Any = None
    config: Mapping[str, Any] | str | PathLike[str] | None = None
    revision: str | None = None
    cache_dir: str | PathLike[str] | None = None
    progress: Progress | None = None
    mimi_device: str | None = None

    def __post_init__(self) -> None:
        check_device(self.device)
        if self.mimi_device is not None:
            check_device(self.mimi_device, "mimi_device")
        for name, allowed in (
            ("dtype", DTYPES),
            ("quantize", QUANTIZE),
            ("kv_dtype", KV_DTYPES),
        ):
            value = getattr(self, name)
            if value is None:
                continue
            # Also the types of numpy and torch that have these names.
            kind = type_name(str(getattr(value, "__name__", value)).removeprefix("torch."))
            if kind not in allowed:
                raise InputError(f"{name} is {value!r}; use {', '.join(allowed)}, or None")
            object.__setattr__(self, name, kind)

    @property
    def codec_device(self) -> str:
        """Where the codec goes."""
        return self.device if self.mimi_device is None else self.mimi_device


def check_device(device: object, option: str = "device") -> None:
    """Raises InputError if a device is not given by name; which names there are the core knows."""
    if not isinstance(device, str):
        raise InputError(f'{option} is {device!r}; use a name such as "auto", "cpu" or "cuda:0"')


def type_name(name: str) -> str:
    """The long name of a number type: ``"float32"`` for ``"f32"``; others stay as they are."""
    return _SHORT.get(name, name)
