"""The application: calls first, then the routes of HTTP."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from kaiwa.server import openapi
from kaiwa.server.build import Server
from kaiwa.server.call.websocket import WebSocketChannel
from kaiwa.server.lifecycle import running
from kaiwa.server.refusal import Refused
from kaiwa.server.routes import callers, operators, pages
from kaiwa.server.routes.dependencies import refusals
from kaiwa.server.routes.health import health, prometheus


def make_app(server: Server) -> ASGIApp:
    """The application of a server."""
    return CallsFirst(_framework(server), server)


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
    )
    app.state.server = server
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(HTTPException, _not_here)
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


async def _not_a_websocket() -> Response:
    """A websocket asked for without being one."""
    message = "conversations are websockets; connect with ws:// or wss://"
    refused = Refused(426, "websocket", message)
    headers = {**refused.headers(), "Upgrade": "websocket"}
    return JSONResponse(refused.body(), status_code=426, headers=headers)
