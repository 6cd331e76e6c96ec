"""Key presses in the terminal, told one by one while an event loop runs."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def pressed(on_key: Callable[[str], object]) -> Iterator[bool]:
    """Calls `on_key` with each key that is pressed within the block.

    Gives whether that is possible: standard input must be a terminal, and not on Windows. Ctrl-C
    interrupts the program as ever.
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
