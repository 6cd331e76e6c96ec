"""Single keys from the terminal while an event loop runs; nothing where that is impossible."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def pressed(on_key: Callable[[str], object]) -> Iterator[bool]:
    """Tells keys as they are pressed within the block; gives whether it can.

    Ctrl-C stays what it is.
    """
    try:
        import termios
        import tty
    except ImportError:  # not on Windows
        yield False
        return
    try:
        number = sys.stdin.fileno()
        before = termios.tcgetattr(number)
        tty.setcbreak(number)
    except (OSError, ValueError, AttributeError, termios.error):
        yield False
        return
    loop = asyncio.get_running_loop()

    def read() -> None:
        data = os.read(number, 64)
        if not data:
            loop.remove_reader(number)
        for key in data.decode("utf-8", "replace"):
            on_key(key)

    loop.add_reader(number, read)
    try:
        yield True
    finally:
        loop.remove_reader(number)
        termios.tcsetattr(number, termios.TCSADRAIN, before)
