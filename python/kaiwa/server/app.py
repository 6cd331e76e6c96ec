"""The routes, and what runs beside them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from kaiwa.engine import Engine
from kaiwa.server import figures, metrics
from kaiwa.server.connection import Connection
from kaiwa.server.refusal import Refused
from kaiwa.server.state import ServerState

log = logging.getLogger("kaiwa.server")

#: Seconds between looks at the live connections.
WATCH = 0.25
#: Seconds that the engine may take to end.
CLOSE_SECONDS = 5.0
STATIC = str(files("kaiwa.server") / "static")

#: Pages load nothing from elsewhere and cannot be framed.
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; connect-src 'self' ws: wss:; "
    "img-src 'self' data:; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def make_app(state: ServerState) -> ASGIApp:
    """The application of a server."""
    return ChatFirst(_framework(state), state)


def _framework(state: ServerState) -> FastAPI:
    """Everything but the calls."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        keeper = await _share(state)
        watcher = asyncio.create_task(_watch(state))
        loader = asyncio.create_task(_load(state))
        try:
            yield
        finally:
            watcher.cancel()
            loader.cancel()
            keeper.cancel()
            if state.shared is not None:
                await state.shared.close()
            if state.engine is not None:
                await _close(state.engine)

    app = FastAPI(title="Kaiwa", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> Response:
        return JSONResponse(error.body(), status_code=error.status, headers=error.headers())

    @app.exception_handler(HTTPException)
    async def nothing_here(request: Request, error: HTTPException) -> Response:
        told = Refused(error.status_code, *_no_such(request, error.status_code))
        return JSONResponse(
            told.body(),
            status_code=error.status_code,
            headers={**told.headers(), **(error.headers or {})},
        )

    add_health(app, state)
    if state.settings.metrics_port is None:
        add_metrics(app, state)
    _add_pages(app, state)
    _add_callers(app, state)
    _add_operators(app, state)

    return app


def _no_such(request: Request, status: int) -> tuple[str, str]:
    """Word and sentence for a request that no route takes."""
    if status == 405:
        return "method", "this address does not take this method; docs/server.md lists what does"
    return "not_found", "there is nothing at this address; docs/server.md lists what there is"


class ChatFirst:
    """Takes calls before the layers of the web framework, each of which would cost something for
    every message."""

    def __init__(self, app: FastAPI, state: ServerState) -> None:
        self._app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or one call."""
        if scope["type"] == "websocket" and scope["path"] == "/api/chat":
            await Connection(self._state, WebSocket(scope, receive, send)).run()
        else:
            await self._app(scope, receive, send)


#: Balancers and people like to ask by HEAD.
_READ = ["GET", "HEAD"]


def add_health(app: FastAPI, state: ServerState) -> None:
    """Health: for infrastructure, which has no keys and names hosts as it likes."""

    @app.api_route("/healthz", methods=_READ)
    async def healthz() -> Response:
        stuck = state.stuck
        return JSONResponse(
            {"state": "stuck" if stuck else "ok"}, status_code=503 if stuck else 200
        )

    @app.api_route("/startupz", methods=_READ)
    async def startupz() -> Response:
        if state.engine is None:
            return JSONResponse({"state": "starting"}, status_code=503)
        return await healthz()

    @app.api_route("/readyz", methods=_READ)
    async def readyz() -> Response:
        body = figures.readiness(state)
        ready = body["state"] == "ready"
        headers = {} if ready else {"Retry-After": "5"}
        return JSONResponse(body, status_code=200 if ready else 503, headers=headers)


def add_metrics(app: FastAPI, state: ServerState) -> None:
    """Metrics, likewise; on one port only, so that a port of their own keeps them from callers."""

    @app.api_route("/metrics", methods=_READ)
    async def prometheus() -> Response:
        return Response(state.metrics.text(), media_type=metrics.CONTENT_TYPE)


def _add_pages(app: FastAPI, state: ServerState) -> None:
    """The pages for people."""

    def page(name: str) -> FileResponse:
        return FileResponse(f"{STATIC}/{name}", headers=_PAGE_HEADERS)

    @app.api_route("/", methods=_READ)
    async def index() -> Response:
        return page("index.html")

    @app.api_route("/ops", methods=_READ)
    async def ops() -> Response:
        return page("ops.html")

    @app.get("/favicon.ico")
    async def icon() -> Response:
        return FileResponse(f"{STATIC}/icon.svg", headers=_PAGE_HEADERS)

    @app.get("/api/chat")
    async def chat() -> Response:
        headers = {"Upgrade": "websocket"}
        told = Refused(
            426, "websocket", "conversations are websockets; connect with ws:// or wss://"
        )
        return JSONResponse(told.body(), status_code=426, headers={**told.headers(), **headers})

    app.mount("/static", StaticFiles(directory=STATIC), name="static")

    @app.get("/v1/info")
    async def info(request: Request) -> Response:
        state.access.check_page(request.headers)
        return JSONResponse(figures.info(state))

    @app.get("/api/build_info")
    async def build_info(request: Request) -> Response:
        state.access.check_page(request.headers)
        return JSONResponse(figures.build_info())

    @app.get("/api/modules_info")
    async def modules_info(request: Request) -> Response:
        state.access.check_page(request.headers)
        return JSONResponse(figures.modules_info(state))


def _add_callers(app: FastAPI, state: ServerState) -> None:
    """What callers with a key may ask for."""

    @app.post("/v1/tokens")
    async def tokens(request: Request) -> Response:
        now = state.clock()
        caller = await state.admission.authorize(request.headers, request.query_params, now)
        if state.access.is_open:
            # Nobody needs one; clients that ask all the same get one that changes nothing.
            return JSONResponse({"token": "", "expires_at": 0})
        token, expires_at = state.access.issue_token(caller, now)
        headers = {"Cache-Control": "no-store"}
        return JSONResponse({"token": token, "expires_at": expires_at}, headers=headers)

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        await state.admission.authorize(request.headers, request.query_params, state.clock())
        return JSONResponse(figures.models(state))


def _add_operators(app: FastAPI, state: ServerState) -> None:
    """What operators may see and do."""

    async def check(request: Request) -> None:
        now = state.clock()
        caller = await state.admission.authorize(request.headers, request.query_params, now)
        state.access.require_operator(caller)

    @app.get("/v1/sessions")
    async def sessions(request: Request) -> Response:
        await check(request)
        return JSONResponse(figures.sessions(state))

    @app.delete("/v1/sessions/{session_id}")
    async def end(request: Request, session_id: str) -> Response:
        await check(request)
        number = int(session_id) if session_id.isdecimal() and len(session_id) < 19 else -1
        message = "the operator ended this conversation"
        found = number >= 0 and state.engine is not None
        if not (found and state.engine and state.engine.end_session(number, message)):
            raise Refused(404, "no_session", "there is no live session of this id")
        return Response(status_code=204)

    @app.get("/v1/stats")
    async def stats(request: Request) -> Response:
        await check(request)
        return JSONResponse(figures.stats(state))


async def _load(state: ServerState) -> None:
    """Loads the model on a thread, so that health is answered meanwhile."""
    done = asyncio.get_running_loop().create_future()
    loop = asyncio.get_running_loop()

    def finish(engine: Any, error: BaseException | None) -> None:
        if not done.done():
            done.set_result((engine, error))

    def work() -> None:
        engine, error = None, None
        try:
            engine = state.load(state.settings)
        except BaseException as raised:
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop is gone
            loop.call_soon_threadsafe(finish, engine, error)

    # A thread of our own: one of a pool would be waited for when the server is stopped.
    threading.Thread(target=work, name="kaiwa-load", daemon=True).start()
    engine, error = await done
    if error is not None:
        state.failure = error
        state.drained.set()
        return
    state.engine = engine
    if state.draining:
        engine.drain()
    log.info(
        "ready",
        extra={"model": engine.name, "slots": engine.readiness.slots_total},
    )
    p95 = engine.readiness.step_p95_seconds
    if p95 > 0.08:
        log.warning(
            "one step takes %.0f ms, a frame lasts 80: conversations cannot keep up on this "
            "machine; use a smaller or coarser model (--quantize int4) or a GPU",
            p95 * 1000,
        )


async def _share(state: ServerState) -> asyncio.Task[None]:
    """Looks for the shared state before anybody calls, and keeps it from then on."""
    if state.shared is None:
        return asyncio.create_task(asyncio.sleep(0))
    await state.shared.sync()
    return asyncio.create_task(state.shared.maintain())


async def _close(engine: Engine) -> None:
    """Waits for the step that runs, but not for one that is stuck: hence a thread of our own."""
    closing = threading.Thread(target=engine.close, name="kaiwa-close", daemon=True)
    closing.start()
    until = time.monotonic() + CLOSE_SECONDS
    while closing.is_alive() and time.monotonic() < until:
        await asyncio.sleep(0.01)
    if closing.is_alive():
        log.error("the engine did not end within %g s; leaving it", CLOSE_SECONDS)


async def _watch(state: ServerState) -> None:
    """Looks after connections, and at how late it is itself."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + WATCH
        await asyncio.sleep(WATCH)
        state.metrics.lag.observe(max(0.0, loop.time() - due))
        now = state.clock()
        try:
            for connection in list(state.connections):
                connection.watch(now)
            state.sweep_held()
        except Exception:
            log.exception("the watch over connections failed")
