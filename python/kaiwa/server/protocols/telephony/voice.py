"""What Twilio asks when somebody calls, and the answer: connect the call with this server."""

from __future__ import annotations

from urllib.parse import parse_qsl
from xml.sax.saxutils import quoteattr

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from kaiwa.server import origins
from kaiwa.server.protocols.base import Services
from kaiwa.server.protocols.telephony import credentials, signature
from kaiwa.server.protocols.telephony.signature import SignatureCheck
from kaiwa.server.refusal import Refused
from kaiwa.server.schemas import Error

#: Bytes of a form; Twilio's have two thousand or so.
MOST_BYTES = 64 << 10


def add(
    router: APIRouter, services: Services, protocol: str, path: str, check: SignatureCheck | None
) -> None:
    """Adds the route.

    Args:
        router: where to.
        services: tells who calls, and makes tokens.
        protocol: name of the protocol.
        path: where its calls are opened.
        check: of signatures; None takes requests without one.
    """

    @router.post(
        f"{path}/voice",
        response_class=Response,
        responses={
            200: {"content": {"application/xml": {}}, "description": "TwiML"},
            **{status: {"model": Error} for status in (400, 401, 403, 429, 503)},
        },
        summary="What to do with a phone call",
        name=f"{protocol}_voice",
    )
    async def voice(request: Request) -> Response:
        """TwiML that connects the call, with a token for it; a busy line if there is no slot. The
        key is the password of the address (`https://kaiwa:KEY@host/telephony/twilio/voice`)."""
        try:
            fields = await _form(request)
            if check is not None:
                check.require(request.headers.get(signature.HEADER), _addresses(request), fields)
            secret = credentials.from_headers(request.headers, None)
            headers, query = credentials.shown(secret, request.headers)
            caller = await services.authorize(headers, query, protocol)
            try:
                services.check_room()
            except Refused:
                return _twiml('<Reject reason="busy"/>')
            token = services.issue_token(caller)
        except Refused as refused:
            return _refusal(refused)
        return _twiml(connect(stream_address(request.headers.get("host", ""), path), token))


def connect(address: str, token: str | None) -> str:
    """TwiML that connects a call both ways with a stream."""
    told = "" if token is None else f'<Parameter name="token" value={quoteattr(token)}/>'
    return f"<Connect><Stream url={quoteattr(address)}>{told}</Stream></Connect>"


def stream_address(host: str, path: str) -> str:
    """Where Twilio opens the stream: by TLS, but on the server's own machine."""
    here = origins.split_host(host)
    local = here is not None and origins.is_loopback(here[0])
    return f"{'ws' if local else 'wss'}://{host}{path}"


def _twiml(verbs: str) -> Response:
    text = f'<?xml version="1.0" encoding="UTF-8"?><Response>{verbs}</Response>'
    return Response(text, media_type="application/xml", headers={"Cache-Control": "no-store"})


def _refusal(refused: Refused) -> Response:
    """A refusal. Twilio sends name and password only when it is asked for them."""
    headers = refused.headers()
    if refused.status == 401:
        headers["WWW-Authenticate"] = 'Basic realm="kaiwa", charset="UTF-8"'
    return JSONResponse(refused.body(), refused.status, headers)


async def _form(request: Request) -> list[tuple[str, str]]:
    """The fields of the form.

    Raises:
        Refused: 400.
    """
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > MOST_BYTES:
            raise Refused(400, "bad_parameter", "this is longer than any form of a phone call")
    try:
        return parse_qsl(
            data.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=500
        )
    except ValueError:
        raise Refused(400, "bad_parameter", "send a form, urlencoded, as Twilio does") from None


def _addresses(request: Request) -> list[str]:
    return signature.addresses(
        request.headers.get("host", ""),
        request.url.path,
        request.url.query,
        ("https", "http"),
        credentials.basic(request.headers) or "",
    )
