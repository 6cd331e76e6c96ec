"""Loading the codec a command was asked to use."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from kaiwa.errors import InputError

if TYPE_CHECKING:
    from kaiwa import Mimi

NO_MODEL = (
    "no model given; pass --model SOURCE or set KAIWA_MIMI, where SOURCE is a repository such as "
    "kyutai/mimi, a folder, or a .safetensors file (to try without one: "
    "`kaiwa synth mimi mimi.safetensors`)"
)


def source_of(args: argparse.Namespace) -> str:
    """The model's source from `--model` or the environment.

    Raises:
        InputError: neither is given.
    """
    source = args.model or os.environ.get("KAIWA_MIMI")
    if not source:
        raise InputError(NO_MODEL)
    return str(source)


def load(args: argparse.Namespace, num_codebooks: int) -> Mimi:
    """The codec that `--model`, `--revision`, `--device` and `--dtype` ask for.

    Raises:
        InputError, CheckpointError, DownloadError, DeviceError: as `kaiwa.Mimi.from_pretrained`.
    """
    from kaiwa import Mimi

    return Mimi.from_pretrained(
        source_of(args),
        num_codebooks=num_codebooks,
        device=args.device,
        dtype=args.dtype,
        revision=args.revision,
    )
