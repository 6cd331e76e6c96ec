"""Secrets that a caller's own server hands to browsers (docs/spec/protocols.md 3.11)."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from kaiwa.server.protocols import openai
from kaiwa.server.protocols.base import Services
from kaiwa.server.protocols.realtime.settings import BadValue, Settings
from kaiwa.server.refusal import Refused
from kaiwa.server.schemas import Error

CLIENT_SECRETS = "/v1/realtime/client_secrets"
#: How long a secret counts, in seconds, and what may be asked for.
DEFAULT_SECONDS, SHORTEST, LONGEST = 60, 10, 7200
#: Longest body, in bytes.
MOST_BODY = 256 << 10


class ClientSecret(BaseModel):
    """A secret, when it expires in seconds since 1970, and the session it opens."""

    value: str
    expires_at: int
    session: dict[str, Any]


def add(router: APIRouter, services: Services, protocol: str) -> None:
    """Adds the route.

    Args:
        router: where to.
        services: of the server.
        protocol: name of the protocol.
    """

    @router.post(
        CLIENT_SECRETS,
        response_model=ClientSecret,
        responses={status: {"model": Error} for status in (400, 401, 403, 404, 413, 503)},
        openapi_extra={"security": [{"key": []}]},
        summary="A secret with which a browser may call",
    )
    async def client_secrets(request: Request, response: Response) -> dict[str, Any]:
        """For a short time, as often as its key allows. The body may have `expires_after`
        (`seconds`) and `session`, with which every session of the secret begins."""
        headers = openai.with_key(request.headers)
        caller = await services.authorize(headers, request.query_params, protocol)
        asked = await _body(request)
        model = services.info().model
        settings = Settings(model)
        session = asked.get("session")
        if session is not None:
            if not isinstance(session, dict):
                raise Refused(
                    400, "bad_parameter", "session is no object; leave it out, or mend it"
                )
            openai.check_model(session.get("model"), model)
            try:
                settings.update(session, heard=False, spoke=False)
            except BadValue as bad:
                raise Refused(400, "bad_parameter", str(bad)) from None
        secret, expires_at = services.issue_client_secret(
            caller, _seconds(asked.get("expires_after")), headers.get("origin"), settings.kept()
        )
        response.headers["Cache-Control"] = "no-store"
        told = settings.told("sess_of_this_secret", expires_at)
        return {"value": secret, "expires_at": expires_at, "session": told}


async def _body(request: Request) -> dict[str, Any]:
    """The JSON of a request; nothing is an empty object.

    Raises:
        Refused: 400, 413.
    """
    data = b""
    async for piece in request.stream():
        data += piece
        if len(data) > MOST_BODY:
            raise Refused(
                413, "too_large", f"the body is too large; send at most {MOST_BODY} bytes"
            )
    if not data.strip():
        return {}
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise Refused(400, "bad_parameter", "the body is no JSON object; send one, or nothing")
    return value


def _seconds(expires_after: Any) -> int:
    """How long the secret is to count.

    Raises:
        Refused: 400.
    """
    if expires_after is None:
        return DEFAULT_SECONDS
    seconds = (
        expires_after.get("seconds", DEFAULT_SECONDS) if isinstance(expires_after, dict) else 0
    )
    whole = isinstance(seconds, int) and not isinstance(seconds, bool)
    if not whole or not SHORTEST <= seconds <= LONGEST:
        raise Refused(
            400,
            "bad_parameter",
            f"expires_after.seconds cannot be used; send {SHORTEST} to {LONGEST}",
        )
    return int(seconds)
