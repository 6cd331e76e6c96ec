"""An event loop in virtual time, and the processes that share it.

Time stands still while there is something to do, and then jumps to the next timer. Tasks belong to
the process in whose context they were made. A process can be stopped between any two of its
callbacks, which is between any two awaits: its callbacks are then put aside in their order.
"""

from __future__ import annotations

import asyncio
import heapq
import select
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any

#: The process to which what runs belongs; None for the world around the processes.
CURRENT: ContextVar[Process | None] = ContextVar("process", default=None)

#: Callbacks without any time passing, beyond which the loop is taken to spin.
MOST_CALLBACKS = 200_000


class Spinning(Exception):  # noqa: N818
    """The loop does not come to rest."""


class Process:
    """What can be stopped and go on.

    Attributes:
        name: for traces.
        stopped: its callbacks are put aside.
        tasks: those that have not ended, in the order in which they began.
        fuse: callbacks until `on_fuse` is called; None: it is not.
        cut_off: what it sends to Redis is lost, and what comes from there.
        dead: it has gone; what it still does reaches nobody.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.stopped = False
        self.cut_off = False
        self.dead = False
        self.tasks: dict[asyncio.Future[Any], float] = {}
        self.aside: list[asyncio.Handle] = []
        self.fuse: int | None = None
        self.on_fuse: Callable[[], object] = lambda: None
        self.context: Context = copy_context()
        self.context.run(CURRENT.set, self)

    def spawn(self, loop: VirtualLoop, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """A task of this process."""
        return self.context.copy().run(loop.create_task, coroutine)


class VirtualLoop(asyncio.BaseEventLoop):
    """Time is `now`, in seconds since the world began.

    Attributes:
        slack: by how much timers of processes may be late, in seconds: while nothing happens, one
            callback then does the work of many.
        before_time: called when nothing is left to do at the present moment; True if there is
            now.
        after_time: called when time has passed.
        disk_seconds: that work on a thread takes.
        on_error: told what the loop would log.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.slack = 0.0
        self.before_time: Callable[[], bool] = lambda: False
        self.after_time: Callable[[], object] = lambda: None
        self.on_error: Callable[[dict[str, Any]], None] = lambda context: None
        self.callbacks = 0
        self.disk_seconds = 0.005
        self._ready: deque[asyncio.Handle]
        self._scheduled: list[asyncio.TimerHandle]
        self._timer_cancelled_count: int
        self._clock_resolution = 1e-9
        self._since_time = 0
        self._poll = select.poll()
        self._readers: dict[int, tuple[Callable[..., object], tuple[Any, ...], Context]] = {}
        self.set_task_factory(self._make_task)
        self.set_exception_handler(lambda _, context: self.on_error(context))

    def time(self) -> float:
        return self.now

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        """As of every loop; a timer of a process may be late by `slack`, never early."""
        if self.slack and CURRENT.get() is not None:
            when = max(when, -(-when // self.slack) * self.slack)
        return super().call_at(when, callback, *args, context=context)

    def exactly_at(
        self, when: float, callback: Callable[..., object], *args: Any
    ) -> asyncio.TimerHandle:
        """A timer that is never late, in no process."""
        return super().call_at(when, callback, *args, context=_WORLD)

    def resume(self, process: Process) -> None:
        """Lets a process go on."""
        if process.stopped:
            process.stopped = False
            self._ready.extend(process.aside)
            process.aside.clear()

    # ---- of asyncio ------------------------------------------------------------------------

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any
    ) -> asyncio.Task[Any]:
        task = asyncio.Task(coroutine, loop=loop, **options)
        process = CURRENT.get()
        if process is not None:
            process.tasks[task] = self.now
            task.add_done_callback(lambda done: process.tasks.pop(done, None), context=_WORLD)
        return task

    def _run_once(self) -> None:
        ready, scheduled = self._ready, self._scheduled
        if not ready and not self._look() and not self.before_time():
            while scheduled and scheduled[0]._cancelled:
                self._drop(heapq.heappop(scheduled))
            if not scheduled:
                raise Spinning("nothing is left to wait for")
            self.now = max(self.now, scheduled[0].when())
            self._since_time = 0
            self.after_time()
        while scheduled and scheduled[0].when() <= self.now:
            timer = heapq.heappop(scheduled)
            if timer._cancelled:
                self._drop(timer)
            else:
                timer._scheduled = False  # type: ignore[attr-defined]
                ready.append(timer)
        todo = len(ready)
        self.callbacks += todo
        self._since_time += todo
        if self._since_time > MOST_CALLBACKS:
            raise Spinning(f"{self._since_time} callbacks at {self.now}")
        for _ in range(todo):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            process: Process | None = handle._context.get(CURRENT)  # type: ignore[attr-defined]
            if process is None:
                handle._run()
            elif process.stopped:
                process.aside.append(handle)
            else:
                if process.fuse is not None:
                    process.fuse -= 1
                    if process.fuse < 0:
                        process.fuse = None
                        process.on_fuse()
                        if process.stopped:
                            process.aside.append(handle)
                            continue
                handle._run()

    def _drop(self, handle: asyncio.TimerHandle) -> None:
        handle._scheduled = False  # type: ignore[attr-defined]
        self._timer_cancelled_count = max(0, self._timer_cancelled_count - 1)

    def _look(self) -> bool:
        """Calls those who wait for a descriptor; whether there was one."""
        if not self._readers:
            return False
        found = False
        for descriptor, _ in self._poll.poll(0):
            callback, args, context = self._readers[descriptor]
            process = context.get(CURRENT)
            if process is None or not process.stopped:
                self.call_soon(callback, *args, context=context)
                found = True
        return found

    def add_reader(  # type: ignore[override]
        self, fd: Any, callback: Callable[..., object], *args: Any
    ) -> None:
        self._readers[fd] = callback, args, copy_context()
        self._poll.register(fd, select.POLLIN)

    def remove_reader(self, fd: Any) -> bool:
        if self._readers.pop(fd, None) is None:
            return False
        self._poll.unregister(fd)
        return True

    def _write_to_self(self) -> None:
        """Nobody sleeps who would have to be woken."""

    def _process_events(self, event_list: Any) -> None:
        """There is no selector."""

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> Any:
        """Work on a thread, such as writing to a disk, which takes its time."""
        done = self.create_future()

        def work() -> None:
            if done.cancelled():
                return
            try:
                done.set_result(func(*args))
            except Exception as error:
                done.set_exception(error)

        self.exactly_at(self.now + self.disk_seconds, work)
        return done

    # ---- connections -----------------------------------------------------------------------

    #: Opens a connection: given its protocol and the host.
    connect: Callable[[asyncio.Protocol, str], Coroutine[Any, Any, asyncio.Transport]]

    async def create_connection(
        self, protocol_factory: Any, host: Any = None, *_: Any, **__: Any
    ) -> Any:
        protocol = protocol_factory()
        return await self.connect(protocol, host), protocol


#: The context of what belongs to no process.
_WORLD = copy_context()
