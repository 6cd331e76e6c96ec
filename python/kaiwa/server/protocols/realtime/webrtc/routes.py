"""Where clients post their offers (docs/spec/protocols.md 3.1)."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import secrets

from fastapi import APIRouter, Request, Response

from kaiwa.server.protocols import openai
from kaiwa.server.protocols.base import Services, WireProtocol
from kaiwa.server.protocols.realtime.webrtc import offer as offers
from kaiwa.server.protocols.realtime.webrtc.channel import WebRtcChannel
from kaiwa.server.protocols.realtime.webrtc.network import Network
from kaiwa.server.protocols.realtime.webrtc.offer import Offer
from kaiwa.server.refusal import Refused
from kaiwa.server.schemas import Error

PATH = "/v1/realtime/calls"

#: Packages that warn of whatever a client sends, as often as it sends it.
_TALKATIVE = ("aioice", "aiortc", "python_multipart")
_PEER = "kaiwa.server.protocols.realtime.webrtc.peer"


def add(router: APIRouter, services: Services, protocol: WireProtocol, network: Network) -> None:
    """Adds the routes.

    Args:
        router: where to.
        services: of the server.
        protocol: that the calls are of.
        network: where calls are to listen.
    """
    calls: dict[str, WebRtcChannel] = {}
    running: set[asyncio.Task[None]] = set()

    async def lead(name: str, channel: WebRtcChannel) -> None:
        calls[name] = channel
        try:
            await services.run_call(protocol, channel)
        finally:
            del calls[name]
            channel.abort()
            await channel.deny(Refused(503, "error", "the call failed; see the server's log"))

    @router.post(
        PATH,
        status_code=201,
        response_class=Response,
        responses={
            201: {"content": {"application/sdp": {}}, "description": "The answer, as SDP"},
            **{
                status: {"model": Error} for status in (400, 401, 403, 404, 413, 415, 429, 501, 503)
            },
        },
        openapi_extra={
            "security": [{"key": []}],
            "requestBody": {
                "required": True,
                "content": {
                    "application/sdp": {"schema": {"type": "string"}},
                    "multipart/form-data": {
                        "schema": {
                            "type": "object",
                            "properties": {
                                "sdp": {"type": "string"},
                                "session": {"type": "object"},
                            },
                            "required": ["sdp"],
                        }
                    },
                },
            },
        },
        summary="Opens a call by WebRTC",
        name=f"{protocol.name}_calls",
    )
    async def open_call(request: Request) -> Response:
        """Takes an offer and answers it. The client then connects by UDP; events go over its data
        channel `oai-events`."""
        await load()
        offer: Offer | Refused
        try:
            offer = await offers.read(request)
        except Refused as refused:
            offer = refused
        name = f"rtc_{secrets.token_urlsafe(18)}"
        channel = WebRtcChannel(request.headers, request.query_params, PATH, offer, network)
        task = asyncio.create_task(lead(name, channel))
        running.add(task)
        task.add_done_callback(running.discard)
        answer = await channel.answered
        headers = {"Location": f"{PATH}/{name}", "Cache-Control": "no-store"}
        return Response(answer, 201, headers, "application/sdp")

    @router.post(
        PATH + "/{call_id}/hangup",
        response_class=Response,
        responses={status: {"model": Error} for status in (401, 403, 404)},
        openapi_extra={"security": [{"key": []}]},
        summary="Ends a call by WebRTC",
        name=f"{protocol.name}_hangup",
    )
    async def hang_up(call_id: str, request: Request) -> Response:
        """For those who know the name of the call, which is in `Location` of the answer."""
        await services.authorize(
            openai.with_key(request.headers), request.query_params, protocol.name
        )
        channel = calls.get(call_id)
        if channel is None:
            raise Refused(404, "not_found", "there is no such call here; it may be over")
        channel.gone(1000)
        return Response(status_code=200)


def load_early() -> None:
    """Loads what WebRTC needs, if it is there."""
    with contextlib.suppress(ImportError):
        importlib.import_module(_PEER)


async def load() -> None:
    """The same, once, beside the event loop, for whoever needs it now.

    Raises:
        Refused: 501, it is not installed.
    """
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        await asyncio.to_thread(importlib.import_module, _PEER)
    except ImportError:
        raise Refused(
            501,
            "webrtc_missing",
            "this server has no WebRTC; call /v1/realtime by websocket, or let the operator "
            "install it: pip install 'kaiwa[webrtc]'",
        ) from None
