"""Progress bars and the closing summary line, both on standard error."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: Seconds between two drawings of a bar that follows the clock.
REFRESH = 0.25

#: Called with the number of units that were done since the last call.
Advance = Callable[[int], None]
#: Called with (units done, units in all), as the core calls it.
Update = Callable[[int, int], None]


@contextmanager
def bar(title: str, total: int | None, *, quiet: bool) -> Iterator[Advance]:
    """A progress bar while the block runs, only where a person looks at a terminal.

    Args:
        title: what is going on.
        total: units in all; None if unknown: then the bar shows the time that has passed.
        quiet: show nothing.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    share_done = (TextColumn("{task.percentage:>3.0f} %"), TimeRemainingColumn())
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        *((TimeElapsedColumn(),) if total is None else share_done),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(title, total=total)
        yield lambda count: progress.update(task, advance=count)


@contextmanager
def share(title: str, *, quiet: bool) -> Iterator[Update]:
    """A progress bar for work that reports how much of how much is done."""
    with bar(title, 1000, quiet=quiet) as advance:
        shown = 0

        def update(done: int, total: int) -> None:
            nonlocal shown
            now = done * 1000 // max(total, 1)
            advance(now - shown)
            shown = now

        yield update


@contextmanager
def elapsing(title: str, seconds: float, *, quiet: bool) -> Iterator[None]:
    """A progress bar for work that takes a known time, which fills as that time passes."""
    with bar(title, max(1, round(seconds * 1000)), quiet=quiet) as advance:
        if quiet or not sys.stderr.isatty():
            yield
            return
        over = threading.Event()
        thread = threading.Thread(target=_follow_clock, args=(advance, over), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def _follow_clock(advance: Advance, over: threading.Event) -> None:
    """Advances a bar by the milliseconds that pass, until it is over."""
    began, shown = time.monotonic(), 0
    while not over.wait(REFRESH):
        now = round((time.monotonic() - began) * 1000)
        advance(now - shown)
        shown = now


def summary(text: str, *, quiet: bool) -> None:
    """The line a command ends with."""
    if not quiet:
        print(text, file=sys.stderr)


def warn(text: str) -> None:
    """A line the user should see even with `--quiet`."""
    print(f"kaiwa: warning: {text}", file=sys.stderr)


def speed(seconds: float, elapsed: float) -> str:
    """How much faster than real time, in words."""
    return f"{seconds / max(elapsed, 1e-9):.1f}x real time"
