"""Matplotlib, which is installed by those who draw."""

from __future__ import annotations

import importlib.util
import sys

from kaiwa.errors import InputError


def require() -> None:
    """Sees to it that there is something to draw with.

    Raises:
        InputError: matplotlib is not installed.
    """
    name = "matplotlib"
    # A module set to None is one that may not be imported.
    there = sys.modules[name] is not None if name in sys.modules else importlib.util.find_spec(name)
    if not there:
        raise InputError(
            "drawing needs the matplotlib package; install it with: pip install 'kaiwa[plot]'"
        )
