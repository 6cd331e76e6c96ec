"""What routes depend on: the server, and who asks."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Request

from kaiwa.server.build import Server
from kaiwa.server.caller import Caller
from kaiwa.server.schemas import Error

#: What `openapi.json` says about routes that want a key.
KEY: dict[str, Any] = {"security": [{"key": []}]}


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The refusals that a route may answer with, for `openapi.json`."""
    return {status: {"model": Error} for status in statuses}


def server_of(request: Request) -> Server:
    """The server that the application belongs to."""
    server: Server = request.app.state.server
    return server


ThisServer = Annotated[Server, Depends(server_of)]


def check_page(request: Request, server: ThisServer) -> None:
    """Refuses web pages of other origins.

    Raises:
        Refused: 403.
    """
    server.access.check_page(request.headers)


async def caller_of(request: Request, server: ThisServer) -> Caller:
    """Who asks, by key or token.

    Raises:
        Refused: 401, 403, 503.
    """
    return await server.admission.authorize(
        request.headers, request.query_params, server.state.clock()
    )


ThisCaller = Annotated[Caller, Depends(caller_of)]


def require_operator(server: ThisServer, caller: ThisCaller) -> None:
    """Refuses everybody but operators.

    Raises:
        Refused: 403.
    """
    server.access.require_operator(caller)
