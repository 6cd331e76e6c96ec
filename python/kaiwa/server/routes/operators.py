"""What operators may see and do."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Response

from kaiwa.server import views
from kaiwa.server.refusal import Refused
from kaiwa.server.routes.dependencies import KEY, ThisServer, refusals, require_operator
from kaiwa.server.schemas import SessionList, Stats

router = APIRouter(tags=["operators"], dependencies=[Depends(require_operator)])


@router.get(
    "/v1/sessions",
    response_model=SessionList,
    openapi_extra=KEY,
    responses=refusals(401, 403, 503),
    summary="Live sessions",
)
async def sessions(server: ThisServer) -> dict[str, Any]:
    """Those that are held for a lost client included."""
    return views.sessions(server)


@router.delete(
    "/v1/sessions/{session_id}",
    status_code=204,
    response_class=Response,
    openapi_extra=KEY,
    responses=refusals(401, 403, 404, 503),
    summary="End a session",
)
async def end_session(server: ThisServer, session_id: str) -> Response:
    """Its client is told that the operator ended the conversation."""
    number = int(session_id) if session_id.isdecimal() and len(session_id) < 19 else -1
    engine = server.state.engine
    message = "the operator ended this conversation; call again later"
    if engine is None or number < 0 or not engine.end_session(number, message):
        raise Refused(404, "no_session", "there is no live session of this id")
    return Response(status_code=204)


@router.get(
    "/v1/stats",
    response_model=Stats,
    openapi_extra=KEY,
    responses=refusals(401, 403, 503),
    summary="What the operator's page shows",
)
async def stats(server: ThisServer) -> dict[str, Any]:
    """Counts since the server began; times in seconds."""
    return views.stats(server)
