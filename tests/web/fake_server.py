"""A server that imitates docs/server.md without a model: it echoes the caller, one frame late.

Tests set its `script`, and read what came in from its `calls`. It listens through a relay that
can cut every connection, as a network does. Run as a program, it serves the pages for a look:
`python tests/web/fake_server.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import socket
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import sphn
import uvicorn
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from tests.web.ogg_check import OggCheck

from kaiwa import __version__
from kaiwa.reasons import REASONS
from kaiwa.server.refusal import Refused
from kaiwa.server.routes.files import PageFiles

STATIC = Path(__file__).parents[2] / "python" / "kaiwa" / "server" / "static"
RATE = 24_000
FRAME = 1920
#: Headers of the pages.
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; connect-src 'self' ws: wss:; "
    "img-src 'self' data:; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
WORDS = (
    " Good evening, it is nice to hear your voice. I was just thinking about the sea in winter,"
    " how quiet it gets when the boats are gone. Do you live near the water? Tell me about it,"
    " I have all the time in the world, well, six minutes of it."
)


@dataclass
class Refusal:
    """How a websocket is turned away, or a call ends: a reason of the table."""

    reason: str
    sentence: str = ""

    @property
    def code(self) -> int:
        return REASONS[self.reason].close


@dataclass
class Script:
    """How the server behaves. Lists are used up, one entry a connection."""

    auth: str = "none"
    keys: tuple[str, ...] = ("kw_right",)
    operator_key: str = ""
    model: str = "synth:tiny"
    synthetic: bool = True
    state: str = "ready"
    max_seconds: float | None = 360.0
    resume_seconds: float = 10.0
    queue: tuple[int, ...] = ()
    queue_pause: float = 0.4
    refusals: list[Refusal] = field(default_factory=list)
    end_after: list[tuple[int, Refusal]] = field(default_factory=list)
    refuses_unknown: bool = False
    words_every: int = 3
    text: str = WORDS


@dataclass
class Call:
    """One connection, as the server saw it."""

    query: dict[str, str]
    started: float = field(default_factory=time.monotonic)
    session: str = ""
    resumed: bool = False
    ogg: OggCheck = field(default_factory=OggCheck)
    pcm: list[NDArray[np.float32]] = field(default_factory=list)
    messages: int = 0
    pings: int = 0
    over: bool = False

    @property
    def audio(self) -> NDArray[np.float32]:
        """What the caller said, decoded."""
        return np.concatenate([*self.pcm, np.zeros(0, np.float32)])

    @property
    def frames(self) -> int:
        return sum(len(part) for part in self.pcm) // FRAME


class Coding:
    """Bytes of one direction to samples and back, in either format."""

    def __init__(self, form: str) -> None:
        self.pcm = form == "pcm"
        self.reader = sphn.OpusStreamReader(RATE)
        self.writer = sphn.OpusStreamWriter(RATE)

    def decode(self, data: bytes) -> NDArray[np.float32]:
        if self.pcm:
            return np.asarray(np.frombuffer(data, "<i2") / 32768, np.float32)
        return np.asarray(self.reader.append_bytes(data), np.float32).reshape(-1)

    def encode(self, samples: NDArray[np.float32]) -> bytes:
        if self.pcm:
            return (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()
        return bytes(self.writer.append_pcm(samples))


def failure(status: int, code: str, message: str, wait: int | None = None) -> JSONResponse:
    refused = Refused(status, code, message, wait)
    return JSONResponse(refused.body(), status, refused.headers())


class FakeServer:
    """Runs on a thread of its own; `url` is where browsers find it."""

    def __init__(self, script: Script | None = None, port: int = 0) -> None:
        self.script = script or Script()
        self.calls: list[Call] = []
        self.ended: list[str] = []
        self.tokens: dict[str, str] = {}
        self.sessions: dict[str, int] = {}
        self.reachable = True
        self.turned_away = 0  # connections while it was not reachable
        self.born = time.monotonic()
        self.stats: dict[str, Any] | None = None
        self._port = port
        self._relayed: set[asyncio.StreamWriter] = set()
        self._relays: set[asyncio.Task[None]] = set()
        self._made = 0
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: uvicorn.Server | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    # ---- life ----

    def start(self) -> FakeServer:
        self._thread.start()
        if not self._ready.wait(20):
            raise RuntimeError("the fake server did not start")
        return self

    def stop(self) -> None:
        if self._server is not None:
            self.cut()
            self._server.should_exit = True
        self._thread.join(20)

    @property
    def port(self) -> int:
        return self._port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def cut(self) -> None:
        """Every connection breaks off without a word."""

        def abort() -> None:
            for writer in self._relayed:
                writer.transport.abort()

        assert self._loop is not None
        self._loop.call_soon_threadsafe(abort)

    def forget(self) -> None:
        """As after a restart: held sessions and tokens are gone."""
        self.sessions.clear()
        self.tokens.clear()

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        inner = socket.socket()
        inner.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            self._app(),
            log_level="critical",
            ws="websockets-sansio",
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        target = inner.getsockname()[1]
        relay = await asyncio.start_server(
            lambda r, w: self._relay(r, w, target), "127.0.0.1", self._port
        )
        self._port = relay.sockets[0].getsockname()[1]
        self._ready.set()
        try:
            await self._server.serve([inner])
        finally:
            relay.close()
            inner.close()
            for writer in self._relayed:
                writer.transport.abort()
            await asyncio.gather(*self._relays, return_exceptions=True)

    async def _relay(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int
    ) -> None:
        if not self.reachable:
            self.turned_away += 1
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._relays.add(task)
        pair = {writer}
        try:
            onward, back = await asyncio.open_connection("127.0.0.1", port)
            pair.add(back)
            self._relayed |= pair
            await asyncio.gather(self._pump(reader, back), self._pump(onward, writer))
        except OSError:
            pass
        finally:
            self._relayed -= pair
            for one in pair:
                one.transport.abort()
            await asyncio.sleep(0)  # so that the loop closes their sockets
            self._relays.discard(task)

    @staticmethod
    async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    # ---- routes ----

    def _app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/", self._page("index.html")),
                Route("/ops", self._page("ops.html")),
                Mount("/static", PageFiles(directory=STATIC)),
                Route("/v1/info", self._info),
                Route("/v1/tokens", self._token, methods=["POST"]),
                Route("/v1/stats", self._stats),
                Route("/v1/sessions/{id}", self._end, methods=["DELETE"]),
                WebSocketRoute("/api/chat", self._chat),
            ]
        )

    @staticmethod
    def _page(name: str) -> Any:
        async def page(_request: Request) -> Response:
            return FileResponse(STATIC / name, headers=PAGE_HEADERS)

        return page

    async def _info(self, _request: Request) -> Response:
        script = self.script
        return JSONResponse(
            {
                "model": script.model,
                "synthetic": script.synthetic,
                "auth": script.auth,
                "version": __version__,
                "sampling": {"temp": 0.8, "temp_text": 0.7, "top_k": 250, "top_k_text": 25},
                "max_seconds": script.max_seconds,
                "slots": 8,
                "state": script.state,
            }
        )

    async def _token(self, request: Request) -> Response:
        if self.script.auth == "none":
            return JSONResponse({"token": "", "expires_at": 0})
        key = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not key:
            return failure(401, "no_key", "this server wants a key")
        if key == "kw_busy":
            return failure(429, "tokens", "too many tokens are in use", 60)
        if key not in self.script.keys:
            return failure(401, "unknown_key", "this key is not known")
        self._made += 1
        token = f"token-{self._made}"
        self.tokens[token] = key
        body = {"token": token, "expires_at": int(time.time()) + 60}
        return JSONResponse(body, headers={"Cache-Control": "no-store"})

    def _operator(self, request: Request) -> Response | None:
        wanted = self.script.operator_key
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not wanted or given == wanted:
            return None
        if not given:
            return failure(401, "no_key", "this server wants a key")
        if given not in self.script.keys:
            return failure(401, "unknown_key", "this key is not known")
        return failure(403, "operator", "this is for operators")

    async def _stats(self, request: Request) -> Response:
        return self._operator(request) or JSONResponse(self.stats or self._figures())

    async def _end(self, request: Request) -> Response:
        if refusal := self._operator(request):
            return refusal
        session = request.path_params["id"]
        if session not in {row["id"] for row in self._figures()["sessions"]}:
            return failure(404, "no_session", "there is no live session of this id")
        self.ended.append(session)
        return Response(status_code=204)

    def _figures(self) -> dict[str, Any]:
        """A busy afternoon, the same each time it is looked at."""
        up = time.monotonic() - self.born + 5000
        history = []
        for i in range(int((up - 120) / 0.08), int(up / 0.08)):
            at = i * 0.08
            batch = 3 + round(2 * math.sin(at / 17) + 0.6 * math.sin(at / 5))
            noise = (i * 2654435761 % 1000) / 1000
            spike = 0.035 if i % 211 == 0 else 0.055 if i % 997 == 0 else 0.0
            history.append([at, batch, 0.014 + 0.0052 * batch + 0.006 * noise**3 + spike])
        live = [
            {
                "id": str(41 + i),
                "protocol": "kyutai",
                "key_name": ("front-desk", "demo", "")[i % 3],
                "state": ("active", "active", "held")[i % 3],
                "seconds": up % 300 + 37.0 * i,
                "frames": int((up % 300 + 37.0 * i) * 12.5),
                "backlog": i % 2,
                "slot": i,
            }
            for i in range(5)
            if str(41 + i) not in self.ended
        ]
        return {
            "state": self.script.state,
            "model": self.script.model,
            "version": __version__,
            "uptime_seconds": up,
            "slots_total": 8,
            "slots_used": len(live),
            "queue": 1,
            "budget_seconds": 0.06,
            "step": {
                "count": int(up / 0.08),
                "batch": history[-1][1],
                "last": history[-1][2],
                "p50": 0.031,
                "p95": 0.038,
                "p99": 0.061,
                "history": history,
            },
            "frames": 184_220,
            "deadline_missed": 12,
            "dropped_input": 31,
            "dropped_output": 4,
            "rejected": {"full": 9, "key_limit": 3, "origin": 1},
            "memory": {"rss": 9_241_000_000, "weights": 7_690_000_000, "state": 612_000_000},
            "sessions": live,
        }

    # ---- a conversation ----

    async def _refuse(self, ws: WebSocket, refusal: Refusal) -> None:
        if refusal.sentence:
            await ws.send_bytes(b"\x05" + refusal.sentence.encode())
        await ws.close(refusal.code, refusal.reason)

    async def _chat(self, ws: WebSocket) -> None:
        call = Call(dict(ws.query_params))
        self.calls.append(call)
        await ws.accept()
        try:
            if refusal := self._objection(call):
                await self._refuse(ws, refusal)
                return
            for position in self.script.queue:
                await ws.send_bytes(
                    b"\x04" + json.dumps({"state": "queued", "position": position}).encode()
                )
                # So that the page has time to show each place.
                await asyncio.sleep(self.script.queue_pause)
            await self._begin(ws, call)
            await self._converse(ws, call)
        except WebSocketDisconnect:
            pass
        finally:
            call.over = True

    def _objection(self, call: Call) -> Refusal | None:
        if self.script.auth == "key" and not self.tokens.pop(call.query.get("token", ""), ""):
            return Refusal("bad_token", "this token is unknown, used or too old")
        if self.script.refusals:
            return self.script.refusals.pop(0)
        token = call.query.get("resume", "")
        if token and token not in self.sessions and self.script.refuses_unknown:
            return Refusal("lost", "That conversation is no longer held.")
        return None

    async def _begin(self, ws: WebSocket, call: Call) -> None:
        token = call.query.get("resume", "")
        call.resumed = token in self.sessions
        if not call.resumed:
            self._made += 1
            token = f"resume-{self._made}"
            self.sessions[token] = 0
        call.session = token.replace("resume", "session")
        await ws.send_bytes(bytes(9))
        await ws.send_bytes(
            b"\x04"
            + json.dumps(
                {
                    "session_id": call.session,
                    "max_seconds": self.script.max_seconds,
                    "resume_token": token,
                    "resume_seconds": self.script.resume_seconds,
                    "model": self.script.model,
                    "synthetic": self.script.synthetic,
                    "resumed": call.resumed,
                }
            ).encode()
        )

    async def _converse(self, ws: WebSocket, call: Call) -> None:
        coding = Coding(call.query.get("format", "opus"))
        end = self.script.end_after.pop(0) if self.script.end_after else None
        late = np.zeros(FRAME, np.float32)
        words = pieces(self.script.text)
        async for message in messages(ws):
            kind, payload = message[0], message[1:]
            call.messages += 1
            if kind == 6 and payload:
                call.pings += 1
                await ws.send_bytes(message)
            if kind != 1:
                continue
            if not coding.pcm:
                call.ogg.message(payload)
            samples = coding.decode(payload)
            call.pcm.append(samples)
            late = np.concatenate([late, samples])
            while len(late) >= 2 * FRAME:
                frame, late = late[:FRAME], late[FRAME:]
                await ws.send_bytes(b"\x01" + coding.encode(frame))
                token = self._token_of(call)
                count = self.sessions.get(token, 0) + 1
                # A frame that was on its way must not bring back what was forgotten.
                if token in self.sessions:
                    self.sessions[token] = count
                if self.script.words_every and count % self.script.words_every == 0:
                    piece = words[(count // self.script.words_every - 1) % len(words)]
                    await ws.send_bytes(b"\x02" + piece.encode())
            if end and call.frames >= end[0]:
                await self._refuse(ws, end[1])
                return

    @staticmethod
    def _token_of(call: Call) -> str:
        return call.session.replace("session", "resume")


async def messages(ws: WebSocket) -> AsyncIterator[bytes]:
    while True:
        data = await ws.receive_bytes()
        if data:
            yield data


def pieces(text: str) -> list[str]:
    """Text as a tokenizer cuts it: words with their space, long ones in two."""
    out = []
    for word in text.split(" ")[1:]:
        cut = 5 if len(word) > 7 else len(word)
        out += [part for part in (" " + word[:cut], word[cut:]) if part]
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description="Serves the web pages without a model.")
    parser.add_argument("--port", type=int, default=8998)
    server = FakeServer(port=parser.parse_args().port).start()
    print(f"{server.url}  and  {server.url}/ops", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()
    server.stop()


if __name__ == "__main__":
    main()
