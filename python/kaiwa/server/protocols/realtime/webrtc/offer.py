"""What a client posts to open a call: its offer, checked before anything is made of it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request

from kaiwa.server.refusal import Refused

#: Longest offer in bytes, and in lines. Those of browsers have about 100 lines and 6 KB.
MOST_BYTES, MOST_LINES = 32 << 10, 500
#: Addresses of a client that are tried.
MOST_CANDIDATES = 16

_OPUS = re.compile(r"^a=rtpmap:\d+ opus/48000(/2)?$", re.MULTILINE | re.IGNORECASE)
_FINGERPRINT = re.compile(r"^a=fingerprint:\S+ [0-9A-Fa-f:]+$", re.MULTILINE)
_USER = re.compile(r"^a=ice-ufrag:[A-Za-z0-9+/]{4,256}$", re.MULTILINE)
_PASSWORD = re.compile(r"^a=ice-pwd:[A-Za-z0-9+/]{22,256}$", re.MULTILINE)


@dataclass(frozen=True)
class Offer:
    """An offer of a client, and what it asks of the session.

    Attributes:
        sdp: of the offer, with lines that end in a line feed alone.
        session: the session as `session.update` has it.
        events: a data channel is offered.
    """

    sdp: str
    session: dict[str, Any] = field(default_factory=dict)
    events: bool = False

    @classmethod
    def read(cls, sdp: str, session: dict[str, Any]) -> Offer:
        """An offer that this server can answer.

        Raises:
            Refused: 400; it is no SDP, or offers something else than one call needs.
        """
        lines = sdp.replace("\r\n", "\n").strip().split("\n")
        text = "\n".join(lines) + "\n"
        if len(text) > MOST_BYTES or len(lines) > MOST_LINES:
            raise _bad("is longer than any call needs; send one of a single audio track")
        if lines[0] != "v=0" or not text.isascii():
            raise _bad("is no SDP; send pc.localDescription.sdp")
        top, *sections = re.split(r"^(?=m=)", text, flags=re.MULTILINE)
        kinds = [section[2:].split(" ", 1)[0] for section in sections]
        if sorted(kinds) not in (["application", "audio"], ["audio"]):
            raise _bad("has to have one audio track, at most one data channel, and no video")
        if len(sections) > 1 and not re.search(r"^a=group:BUNDLE \S+ \S+", top, re.MULTILINE):
            raise _bad("does not bundle its parts; set bundlePolicy to max-bundle")
        for section in sections:
            for what in (_FINGERPRINT, _USER, _PASSWORD):
                if not (what.search(section) or what.search(top)):
                    raise _bad("lacks fingerprint or ICE credentials; send localDescription.sdp")
        audio = sections[kinds.index("audio")]
        if not _OPUS.search(audio):
            raise _bad("has no Opus; offer opus/48000/2 for the audio track")
        return cls(text, session, "application" in kinds)

    def for_peer(self, *, candidates: bool) -> str:
        """The offer with the addresses of the client that the server is to send to.

        Args:
            candidates: whether it sends to any before they have sent to it. Addresses of mDNS and
                of TCP are left out, and all but the first `MOST_CANDIDATES`. Without a line that
                says there are no more, more are learned from what the client sends.
        """
        kept, count = [], 0
        for line in self.sdp.split("\n"):
            if line.startswith("a=end-of-candidates"):
                continue
            if line.startswith("a=candidate:"):
                words = line.split()
                usable = len(words) > 4 and words[2].lower() == "udp"
                if not candidates or not usable or words[4].endswith(".local"):
                    continue
                count += 1
                if count > MOST_CANDIDATES:
                    continue
            kept.append(line)
        return "\r\n".join(kept)


async def read(request: Request) -> Offer:
    """The offer of a request: SDP as its body, or a form with `sdp` and `session`.

    Raises:
        Refused: 400, 413, 415.
    """
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind == "application/sdp":
        return Offer.read(_text(await _body(request)), {})
    if kind != "multipart/form-data":
        raise Refused(
            415,
            "bad_parameter",
            "send the offer as application/sdp, or as multipart/form-data with sdp and session",
        )
    fields = await _form(request)
    session: Any = {}
    if fields.get("session"):
        try:
            session = json.loads(fields["session"])
        except (ValueError, RecursionError):
            session = None
    if not isinstance(session, dict):
        raise Refused(400, "bad_parameter", "session is no JSON object; leave it out, or mend it")
    if "sdp" not in fields:
        raise Refused(400, "bad_parameter", "the form has no sdp; send the offer by this name")
    return Offer.read(fields["sdp"], session)


async def _body(request: Request) -> bytes:
    """The body.

    Raises:
        Refused: 413.
    """
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > 2 * MOST_BYTES:
            raise Refused(
                413, "too_large", f"the body is too large; send at most {2 * MOST_BYTES} bytes"
            )
    return bytes(data)


async def _form(request: Request) -> dict[str, str]:
    """The fields of a multipart form.

    Raises:
        Refused: 400.
    """
    fields = {}
    try:
        async with request.form(max_files=4, max_fields=8, max_part_size=2 * MOST_BYTES) as form:
            for name, value in form.multi_items():
                fields[name] = (
                    value if isinstance(value, str) else _text(await value.read(2 * MOST_BYTES))
                )
    except HTTPException:
        raise Refused(
            400, "bad_parameter", "this is no multipart form; send one with sdp and session"
        ) from None
    return fields


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _bad(what: str) -> Refused:
    return Refused(400, "bad_parameter", f"the offer {what}")
