"""Work that would hold the event loop up, on a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from typing import TypeAlias, TypeVar

T = TypeVar("T")

#: Does work elsewhere, under a name, and gives what it gave or raises what it raised. The work goes
#: on if the waiting for it is cancelled.
Apart: TypeAlias = Callable[[str, Callable[[], T]], Awaitable[T]]


async def on_a_thread(name: str, work: Callable[[], T]) -> T:
    """Does work on a thread that nobody has to join: one of a pool would be waited for when the
    server is stopped.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def finish(result: T | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except BaseException as raised:
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop is gone
            loop.call_soon_threadsafe(finish, result, error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await done
