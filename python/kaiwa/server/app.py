"""The routes."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from importlib.resources import files

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from kaiwa.server import metrics, views
from kaiwa.server.build import Server
from kaiwa.server.call.websocket import WebSocketChannel
from kaiwa.server.lifecycle import running
from kaiwa.server.refusal import Refused

STATIC = str(files("kaiwa.server") / "static")

#: Pages load nothing from elsewhere and cannot be framed.
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; connect-src 'self' ws: wss:; "
    "img-src 'self' data:; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def make_app(server: Server) -> ASGIApp:
    """The application of a server."""
    return CallsFirst(_framework(server), server)


def _framework(server: Server) -> FastAPI:
    """Everything but the calls."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with running(server):
            yield

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

    add_health(app, server)
    if server.settings.metrics_port is None:
        add_metrics(app, server)
    _add_pages(app, server)
    _add_callers(app, server)
    _add_operators(app, server)
    _add_protocols(app, server)

    return app


def _no_such(request: Request, status: int) -> tuple[str, str]:
    """Word and sentence for a request that no route takes."""
    if status == 405:
        return "method", "this address does not take this method; docs/server.md lists what does"
    return "not_found", "there is nothing at this address; docs/server.md lists what there is"


class CallsFirst:
    """Takes calls before the layers of the web framework, each of which would cost something for
    every message."""

    def __init__(self, app: FastAPI, server: Server) -> None:
        self._app = app
        self._server = server
        self._protocols = {path: known for known in server.protocols for path in known.paths}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or one call."""
        protocol = self._protocols.get(scope["path"]) if scope["type"] == "websocket" else None
        if protocol is None:
            await self._app(scope, receive, send)
            return
        observe = self._server.metrics.ping_rtt.observe
        channel = WebSocketChannel(WebSocket(scope, receive, send), observe)
        await self._server.run_call(protocol, channel)


def make_side_app(server: Server) -> FastAPI:
    """The application of the port for infrastructure (`metrics_port`): health and metrics."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    add_health(app, server)
    add_metrics(app, server)
    return app


#: Balancers and people like to ask by HEAD.
_READ = ["GET", "HEAD"]


def add_health(app: FastAPI, server: Server) -> None:
    """Health: for infrastructure, which has no keys and names hosts as it likes."""

    @app.api_route("/healthz", methods=_READ)
    async def healthz() -> Response:
        stuck = server.state.stuck
        return JSONResponse(
            {"state": "stuck" if stuck else "ok"}, status_code=503 if stuck else 200
        )

    @app.api_route("/startupz", methods=_READ)
    async def startupz() -> Response:
        if server.state.engine is None:
            return JSONResponse({"state": "starting"}, status_code=503)
        return await healthz()

    @app.api_route("/readyz", methods=_READ)
    async def readyz() -> Response:
        body = views.readiness(server)
        ready = body["state"] == "ready"
        headers = {} if ready else {"Retry-After": "5"}
        return JSONResponse(body, status_code=200 if ready else 503, headers=headers)


def add_metrics(app: FastAPI, server: Server) -> None:
    """Metrics, likewise; on one port only, so that a port of their own keeps them from callers."""

    @app.api_route("/metrics", methods=_READ)
    async def prometheus() -> Response:
        return Response(server.metrics.text(), media_type=metrics.CONTENT_TYPE)


def _add_pages(app: FastAPI, server: Server) -> None:
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

    app.mount("/static", StaticFiles(directory=STATIC), name="static")

    @app.get("/v1/info")
    async def info(request: Request) -> Response:
        server.access.check_page(request.headers)
        return JSONResponse(views.info(server))


def _add_protocols(app: FastAPI, server: Server) -> None:
    """What the wire protocols need of HTTP."""

    async def not_a_websocket() -> Response:
        headers = {"Upgrade": "websocket"}
        told = Refused(
            426, "websocket", "conversations are websockets; connect with ws:// or wss://"
        )
        return JSONResponse(told.body(), status_code=426, headers={**told.headers(), **headers})

    for protocol in server.protocols:
        for path in protocol.paths:
            app.add_api_route(path, not_a_websocket, methods=["GET"])
        router = APIRouter()
        protocol.add_routes(router, server)
        app.include_router(router)


def _add_callers(app: FastAPI, server: Server) -> None:
    """What callers with a key may ask for."""

    @app.post("/v1/tokens")
    async def tokens(request: Request) -> Response:
        now = server.state.clock()
        caller = await server.admission.authorize(request.headers, request.query_params, now)
        if server.access.is_open:
            # Nobody needs one; clients that ask all the same get one that changes nothing.
            return JSONResponse({"token": "", "expires_at": 0})
        token, expires_at = server.access.issue_token(caller, now)
        headers = {"Cache-Control": "no-store"}
        return JSONResponse({"token": token, "expires_at": expires_at}, headers=headers)

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        await server.admission.authorize(
            request.headers, request.query_params, server.state.clock()
        )
        return JSONResponse(views.models(server))


def _add_operators(app: FastAPI, server: Server) -> None:
    """What operators may see and do."""

    async def check(request: Request) -> None:
        now = server.state.clock()
        caller = await server.admission.authorize(request.headers, request.query_params, now)
        server.access.require_operator(caller)

    @app.get("/v1/sessions")
    async def sessions(request: Request) -> Response:
        await check(request)
        return JSONResponse(views.sessions(server))

    @app.delete("/v1/sessions/{session_id}")
    async def end(request: Request, session_id: str) -> Response:
        await check(request)
        number = int(session_id) if session_id.isdecimal() and len(session_id) < 19 else -1
        message = "the operator ended this conversation"
        engine = server.state.engine
        if engine is None or number < 0 or not engine.end_session(number, message):
            raise Refused(404, "no_session", "there is no live session of this id")
        return Response(status_code=204)

    @app.get("/v1/stats")
    async def stats(request: Request) -> Response:
        await check(request)
        return JSONResponse(views.stats(server))
