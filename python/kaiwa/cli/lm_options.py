"""Options of the commands that use a language model."""

from __future__ import annotations

import argparse
import os
from typing import Any

from kaiwa import demo, model_options
from kaiwa.cli import options
from kaiwa.terminal import progress


def add_source(parser: argparse.ArgumentParser) -> None:
    """Which model to load, and how."""
    group = parser.add_argument_group("model")
    for option in model_options.MODEL:
        words = {}
        if option.name == "model":
            words["shown_default"] = f"the variable KAIWA_MODEL, else {option.shown_default}"
        options.add(group, option, **words)


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """How tokens are chosen."""
    group = parser.add_argument_group("sampling")
    for option in model_options.SAMPLING:
        if option.name == "seed":
            options.add(group, option, default=0, shown_default="")
        else:
            own = model_options.own_default(option.name)
            options.add(group, option, shown_default=own)


def source_of(args: argparse.Namespace) -> str:
    """The model's source from `--model` or the environment; the demo model if neither names one,
    which is said."""
    source = args.model or os.environ.get("KAIWA_MODEL")
    if not source:
        progress.summary(demo.HINT, quiet=args.quiet)
        return demo.SOURCE
    return str(source)


def sampling(args: argparse.Namespace) -> dict[str, Any]:
    """The options of `add_sampling` as arguments of `Duplex.from_pretrained`."""
    return {option.name: getattr(args, option.name) for option in model_options.SAMPLING}
