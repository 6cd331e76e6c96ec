"""What pages and callers may ask for."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Response

from kaiwa.server import views
from kaiwa.server.routes.dependencies import (
    KEY,
    ThisCaller,
    ThisServer,
    caller_of,
    check_page,
    refusals,
)
from kaiwa.server.schemas import Info, ModelList, Token

router = APIRouter(tags=["callers"])

#: What pages of allowed origins may fetch (`server.cross_origin`).
CROSS_ORIGIN: dict[str, tuple[str, ...]] = {
    "/v1/info": ("GET",),
    "/v1/tokens": ("POST",),
    "/v1/models": ("GET",),
}


@router.get(
    "/v1/info",
    response_model=Info,
    dependencies=[Depends(check_page)],
    responses=refusals(403),
    summary="What a page needs to know before a call",
)
async def info(server: ThisServer) -> dict[str, Any]:
    """For everyone."""
    return views.info(server)


@router.post(
    "/v1/tokens",
    response_model=Token,
    openapi_extra=KEY,
    responses=refusals(401, 403, 429, 503),
    summary="A token for one connection",
)
async def tokens(server: ThisServer, caller: ThisCaller, response: Response) -> dict[str, Any]:
    """For clients that cannot send headers with a websocket: `?token=` opens one, once, and soon.
    Where no keys are asked for the token is empty, and none is needed."""
    if server.access.is_open:
        return {"token": "", "expires_at": 0}
    token, expires_at = server.access.issue_token(caller, server.state.clock())
    response.headers["Cache-Control"] = "no-store"
    return {"token": token, "expires_at": expires_at}


@router.get(
    "/v1/models",
    response_model=ModelList,
    dependencies=[Depends(caller_of)],
    openapi_extra=KEY,
    responses=refusals(401, 403, 503),
    summary="The models that are served",
)
async def models(server: ThisServer) -> dict[str, Any]:
    """In the form of OpenAI's API."""
    return views.models(server)
