"""A server of `/api/chat` that does as it is told."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

METADATA = {"session_id": "a1b2", "max_seconds": None, "model": "echo", "synthetic": True}


@dataclass
class Script:
    """What the server does.

    Attributes:
        refusal: status, code, message and headers in place of a websocket.
        slots: calls at once; more are refused with `full`.
        queue: positions told before the handshake.
        handshake: None: never given.
        before, after: messages sent before the handshake and after the metadata.
        delay: seconds from an input frame to its answer.
        drop: numbers of input frames that are not answered.
        hold: frames that are answered only with later ones.
        end: after this many input frames the call is closed with `close`.
        say: text sent with these answer frames.
    """

    refusal: tuple[int, str, str, dict[str, str]] | None = None
    slots: int | None = None
    queue: tuple[int, ...] = ()
    handshake: bytes | None = bytes(9)
    before: tuple[bytes | str, ...] = ()
    after: tuple[bytes | str, ...] = ()
    delay: float = 0.0
    drop: frozenset[int] = frozenset()
    hold: int = 0
    end: int | None = None
    error: str | None = None
    close: tuple[int, str] | None = None
    say: dict[int, str] = field(default_factory=dict)


class FakeServer:
    """Echoes audio messages, one for each; counts what it saw."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.url = ""
        self.stop: Callable[[], object] = lambda: None
        self.queries: list[dict[str, list[str]]] = []
        self.headers: list[Headers] = []
        self.received: list[list[bytes]] = []
        self.codes: list[int | None] = []
        self._busy = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """Refuses, or lets the websocket come about."""
        script = self.script
        self.headers.append(request.headers)
        self.queries.append(parse_qs(urlsplit(request.path).query))
        refusal = script.refusal
        if script.slots is not None and self._busy >= script.slots:
            refusal = (503, "full", "All slots are taken.", {"Retry-After": "2"})
        if refusal is None:
            self._busy += 1
            return None
        status, code, message, headers = refusal
        body = {"error": {"type": "refused", "code": code, "message": message, "param": None}}
        response = connection.respond(HTTPStatus(status), json.dumps(body))
        for name, value in headers.items():
            response.headers[name] = value
        return response

    async def call(self, socket: ServerConnection) -> None:
        """One conversation."""
        script = self.script
        messages: list[bytes] = []
        self.received.append(messages)
        try:
            await self._greet(socket)
            frames = 0
            async for message in socket:
                assert isinstance(message, bytes)
                messages.append(message)
                if message[:1] == b"\x06":
                    await socket.send(message)
                if message[:1] != b"\x01" or script.handshake is None:
                    continue
                self._answer(socket, frames, message)
                frames += 1
                if script.end is not None and frames >= script.end:
                    await self._finish(socket)
                    break
        except ConnectionClosed:
            pass
        finally:
            self._busy -= 1
            self.codes.append(socket.close_code)

    async def _greet(self, socket: ServerConnection) -> None:
        script = self.script
        for position in script.queue:
            state = {"state": "queued", "position": position}
            await socket.send(b"\x04" + json.dumps(state).encode())
        for message in script.before:
            await socket.send(message)
        if script.handshake is not None:
            await socket.send(script.handshake)
            await socket.send(b"\x04" + json.dumps(METADATA).encode())
        for message in script.after:
            await socket.send(message)
        if script.end == 0:
            await self._finish(socket)

    def _answer(self, socket: ServerConnection, number: int, message: bytes) -> None:
        script = self.script
        if number in script.drop or number < script.hold:
            return

        async def later() -> None:
            # How late the server answers is a matter of the script.
            await asyncio.sleep(script.delay)
            try:
                await socket.send(message)
                if number in script.say:
                    await socket.send(b"\x02" + script.say[number].encode())
            except ConnectionClosed:
                pass

        task = asyncio.create_task(later())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _finish(self, socket: ServerConnection) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self.script.error is not None:
            await socket.send(b"\x05" + self.script.error.encode())
        if self.script.close is None:
            socket.transport.abort()
        else:
            await socket.close(*self.script.close)


@asynccontextmanager
async def serving(script: Script | None = None, **values: Any) -> AsyncIterator[FakeServer]:
    """A server on a port of its own."""
    fake = FakeServer(script or Script(**values))
    server: Server = await serve(
        fake.call, "127.0.0.1", 0, process_request=fake.admit, compression=None, close_timeout=1
    )
    port = server.sockets[0].getsockname()[1]
    fake.url = f"ws://127.0.0.1:{port}/api/chat"
    try:
        yield fake
    finally:
        server.close()
        await server.wait_closed()


@contextmanager
def serving_in_a_thread(**values: Any) -> Iterator[FakeServer]:
    """The same, for code that has an event loop of its own."""
    ready: Future[FakeServer] = Future()

    async def main() -> None:
        async with serving(**values) as server:
            loop = asyncio.get_running_loop()
            over = asyncio.Event()
            server.stop = lambda: loop.call_soon_threadsafe(over.set)
            ready.set_result(server)
            await over.wait()

    thread = threading.Thread(target=asyncio.run, args=(main(),), daemon=True)
    thread.start()
    server = ready.result(timeout=10)
    try:
        yield server
    finally:
        server.stop()
        thread.join(timeout=10)


async def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    """Waits for something to become true."""
    for _ in range(round(seconds / 0.005)):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not come")
