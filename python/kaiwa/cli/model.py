"""Loading the codec a command was asked to use."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from kaiwa import demo

if TYPE_CHECKING:
    from kaiwa import Mimi


def named_source(args: argparse.Namespace) -> str | None:
    """The codec's source from `--model` or the variable `KAIWA_MIMI`; None if neither names one."""
    return args.model or os.environ.get("KAIWA_MIMI") or None


def source_of(args: argparse.Namespace) -> str:
    """The codec's source: the one that was named, else the demo codec that comes with Kaiwa."""
    return named_source(args) or demo.SOURCE


def load(args: argparse.Namespace, num_codebooks: int) -> Mimi:
    """The codec that `--model`, `--revision`, `--device` and `--dtype` ask for. If none is named it
    is the demo codec, and a line on standard error says so.

    Raises:
        InputError, CheckpointError, DownloadError, DeviceError: as `kaiwa.Mimi.from_pretrained`.
    """
    from kaiwa import Mimi
    from kaiwa.errors import InputError
    from kaiwa.terminal import progress

    source = named_source(args)
    if source is None:
        if args.revision is not None:
            raise InputError("--revision is given without --model; name the repository too")
        progress.summary(demo.CODEC_HINT, quiet=args.quiet)
    with progress.bar("loading", None, quiet=args.quiet):
        return Mimi.from_pretrained(
            source or demo.SOURCE,
            num_codebooks=num_codebooks,
            device=args.device,
            dtype=args.dtype,
            revision=args.revision,
        )
