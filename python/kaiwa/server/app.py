"""The application: calls first, then the routes of HTTP."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator
from urllib.parse import quote

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from kaiwa.server import openapi
from kaiwa.server.build import Server
from kaiwa.server.call.websocket import WebSocketChannel
from kaiwa.server.cross_origin import CrossOrigin
from kaiwa.server.lifecycle import running
from kaiwa.server.refusal import Refused
from kaiwa.server.routes import callers, operators, pages
from kaiwa.server.routes.dependencies import refusals
from kaiwa.server.routes.health import health, prometheus


def make_app(server: Server) -> ASGIApp:
    """The application of a server."""
    paths: dict[str, tuple[str, ...]] = dict(callers.CROSS_ORIGIN)
    for protocol in server.protocols:
        paths.update(protocol.cross_origin)
    app = CrossOrigin(_framework(server), paths, server.access)
    return CallsFirst(app, server)


def make_side_app(server: Server) -> FastAPI:
    """The application of the port for infrastructure (`metrics_port`): health and metrics."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.state.server = server
    app.add_exception_handler(Refused, _refused)
    app.include_router(health)
    app.include_router(prometheus)
    return app


class CallsFirst:
    """Takes calls before the layers of the web framework, each of which would cost something for
    every message."""

    def __init__(self, app: ASGIApp, server: Server) -> None:
        self._app = app
        self._server = server
        self._protocols = {path: known for known in server.protocols for path in known.paths}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or one call."""
        if scope["type"] in ("http", "websocket"):
            scope = _plain_path(scope)
        if scope["type"] != "websocket":
            await self._app(scope, receive, send)
            return
        protocol = self._protocols.get(scope["path"])
        websocket = WebSocket(scope, receive, send)
        if protocol is None:
            refused = self._no_calls()
            answer = JSONResponse(refused.body(), refused.status, refused.headers())
            with contextlib.suppress(OSError, RuntimeError):  # it has gone
                await websocket.send_denial_response(answer)
            return
        channel = WebSocketChannel(websocket, self._server.metrics.ping_rtt.observe)
        await self._server.run_call(protocol, channel)

    def _no_calls(self) -> Refused:
        """The refusal of a websocket where no calls are opened."""
        known = ", ".join(self._protocols)
        return Refused(404, "not_found", f"no calls are opened at this address, but at {known}")


def _plain_path(scope: Scope) -> Scope:
    """A request with its path in the plain form: clients put addresses together of parts, and get
    a slash too many."""
    plain = re.sub("/{2,}", "/", scope["path"])
    if len(plain) > 1:
        plain = plain.removesuffix("/")
    if plain == scope["path"]:
        return scope
    return {**scope, "path": plain, "raw_path": quote(plain).encode("ascii")}


def _framework(server: Server) -> FastAPI:
    """Everything but the calls."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with running(server):
            yield

    app = FastAPI(
        title="Kaiwa",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        generate_unique_id_function=lambda route: route.name,
        redirect_slashes=False,
    )
    app.state.server = server
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(HTTPException, _not_here)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.include_router(health)
    if server.settings.metrics_port is None:
        app.include_router(prometheus)
    app.include_router(pages.router)
    app.router.routes.append(pages.static())
    app.include_router(callers.router)
    app.include_router(operators.router)
    for protocol in server.protocols:
        router = APIRouter(tags=[f"protocol {protocol.name}"])
        for path in protocol.paths:
            router.add_api_route(
                path,
                _not_a_websocket,
                methods=["GET"],
                status_code=426,
                response_class=Response,
                responses=refusals(426),
                summary="Calls are opened here, as websockets",
                name=f"{protocol.name}_calls",
            )
        protocol.add_routes(router, server)
        app.include_router(router)
    openapi.install(app)
    return app


async def _refused(_: Request, error: Exception) -> Response:
    """A refusal as JSON."""
    assert isinstance(error, Refused)
    return JSONResponse(error.body(), status_code=error.status, headers=error.headers())


async def _not_here(request: Request, error: Exception) -> Response:
    """A request that no route takes, refused like everything else."""
    assert isinstance(error, HTTPException)
    code = "method" if error.status_code == 405 else "not_found"
    message = {
        "method": "this address does not take this method; docs/server.md lists what does",
        "not_found": "there is nothing at this address; docs/server.md lists what there is",
    }[code]
    refused = Refused(error.status_code, code, message)
    headers = {**refused.headers(), **(error.headers or {})}
    return JSONResponse(refused.body(), status_code=error.status_code, headers=headers)


async def _gone(_: Request, error: Exception) -> Response:
    """The client went while its request was read; nobody gets this answer."""
    del error
    return Response(status_code=400)


async def _not_a_websocket() -> Response:
    """A websocket asked for without being one."""
    message = "conversations are websockets; connect with ws:// or wss://"
    refused = Refused(426, "websocket", message)
    headers = {**refused.headers(), "Upgrade": "websocket"}
    return JSONResponse(refused.body(), status_code=426, headers=headers)
