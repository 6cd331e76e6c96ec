"""Why a call ends or is refused: one table for the server, the client and the web page.

A reason is one word. It is the reason of the websocket's close frame, the `code` of an HTTP
refusal, and the label of the server's metrics. The server takes close codes from here, the client
its advice, and the web page what it shows (`static/js/reasons.js` is made from this table by
`python -m tools.page_reasons`).

This module imports nothing of the package, so that every part of it can use it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["REASONS", "Kind", "Reason", "close_code", "is_silent", "sentence_of"]

#: What a reason means for the person who calls:
#:
#: - ``over``: the call ended as calls do,
#: - ``key``: the key or token does not count; another one is needed,
#: - ``busy``: there is no room at present; the same call may succeed later,
#: - ``restarting``, ``starting``: the server is about to be back; trying again makes sense,
#: - ``lost``: the connection of the call was lost for too long,
#: - ``failed``: something went wrong, here or on the server.
Kind = Literal["over", "key", "busy", "restarting", "starting", "lost", "failed"]

#: Seconds after which another attempt makes sense, where a server names no other.
SOON: Final = 5.0


@dataclass(frozen=True)
class Reason:
    """One reason.

    Attributes:
        name: the word on the wire.
        close: close code of the websocket.
        kind: what it means for the person who calls.
        title: a headline for that person.
        sentence: what happened and what to do, for calls whose server says nothing more precise;
            begins with a small letter and has no full stop, as the server's own messages.
        status: HTTP status when a call is refused with it; None: it only ends calls.
        ends: a session can end with it (its events say so: `kaiwa.EndEvent`).
        retry: seconds after which the same call may succeed; None: it fails again, or was no
            failure. A server that knows better says so in `Retry-After`.
        silent: the client brought the end about itself and is sent no message about it.
    """

    name: str
    close: int
    kind: Kind
    title: str
    sentence: str
    status: int | None = None
    ends: bool = False
    retry: float | None = None
    silent: bool = False


_TABLE: Final = (
    # ---- ends of a session ----
    Reason("client", 1000, "over", "Call ended", "the caller hung up", ends=True, silent=True),
    Reason(
        "finished",
        1000,
        "over",
        "Call ended",
        "all audio was answered",
        ends=True,
        silent=True,
    ),
    Reason(
        "expired",
        1000,
        "over",
        "Time limit reached",
        "a call on this server lasts only so long; begin a new one",
        ends=True,
    ),
    Reason(
        "idle",
        1000,
        "over",
        "Call ended",
        "no sound arrived for too long; call again",
        ends=True,
    ),
    Reason(
        "closed",
        1000,
        "over",
        "Call ended",
        "the operator ended this call, or the server stopped; call again later",
        ends=True,
    ),
    Reason(
        "garbage",
        1003,
        "failed",
        "The server did not understand the messages of this call",
        "too many messages had no meaning; use a client that speaks the protocol of docs/server.md",
        status=400,
        ends=True,
    ),
    Reason(
        "input_too_fast",
        1008,
        "failed",
        "Call ended",
        "sound was sent faster than time passes; send one frame every 80 ms",
        ends=True,
    ),
    Reason(
        "flood",
        1008,
        "failed",
        "Call ended",
        "far more messages were sent than a conversation needs; send sound in messages of 20 to "
        "80 ms",
    ),
    Reason(
        "slow_consumer",
        1008,
        "failed",
        "Call ended",
        "this connection is too slow for a conversation; use a better one",
        ends=True,
    ),
    Reason(
        "revoked",
        1008,
        "key",
        "This key is no longer valid",
        "the key of this call was revoked or has expired; ask the operator for a new one",
        status=401,
        ends=True,
    ),
    Reason(
        "error",
        1011,
        "failed",
        "Something failed on the server",
        "the server met an error in this call; call again",
        status=503,
        ends=True,
        retry=SOON,
    ),
    Reason(
        "drain",
        1012,
        "restarting",
        "The server is restarting",
        "the server stopped during the call; call again in a moment",
        ends=True,
        retry=SOON,
    ),
    Reason(
        "shed",
        1013,
        "failed",
        "Call ended",
        "the server had too much to do and ended the newest call; try again later",
        ends=True,
        retry=SOON,
    ),
    Reason(
        "lost",
        1013,
        "lost",
        "Connection lost",
        "the conversation could not be taken up again; call again",
        ends=True,
        retry=SOON,
    ),
    # ---- no room: before a call has begun ----
    Reason(
        "full",
        1013,
        "busy",
        "Server full",
        "all conversations are taken; try again in a moment",
        status=503,
        ends=True,
        retry=SOON,
    ),
    Reason(
        "overloaded",
        1013,
        "busy",
        "Server busy",
        "the server has no time for one more conversation; try again in a moment",
        status=503,
        ends=True,
        retry=SOON,
    ),
    Reason(
        "draining",
        1012,
        "restarting",
        "The server is restarting",
        "the server is about to stop; try again in a moment",
        status=503,
        ends=True,
        retry=SOON,
    ),
    Reason(
        "starting",
        1013,
        "starting",
        "The server is starting",
        "the model is still loading; try again in a moment",
        status=503,
        retry=SOON,
    ),
    Reason(
        "failed",
        1013,
        "busy",
        "The server has failed",
        "the engine has failed and must be restarted; try again in a while",
        status=503,
        retry=2 * SOON,
    ),
    Reason(
        "stuck",
        1013,
        "busy",
        "Server not responding",
        "the server does not answer at present; try again, and tell the operator if it stays so",
        status=503,
        retry=2 * SOON,
    ),
    Reason(
        "shared_state",
        1013,
        "busy",
        "Server busy",
        "the servers cannot count the calls of a key at present; try again in a moment",
        status=503,
        retry=SOON,
    ),
    Reason(
        "key_concurrency",
        1008,
        "busy",
        "The limit of this key is reached",
        "this key has as many conversations as it may have at once; end one first",
        status=429,
        retry=SOON,
    ),
    Reason(
        "key_rate",
        1008,
        "busy",
        "The limit of this key is reached",
        "this key has begun as many calls as it may in a minute; wait a moment",
        status=429,
        retry=SOON,
    ),
    Reason(
        "tokens",
        1008,
        "busy",
        "Server busy",
        "too many tokens are in use at present; try again in a moment",
        status=429,
        retry=SOON,
    ),
    # ---- who calls ----
    Reason(
        "no_key",
        1008,
        "key",
        "This server asks for a key",
        "no key came with the call; enter one, or ask the operator for one",
        status=401,
    ),
    Reason(
        "unknown_key",
        1008,
        "key",
        "This key is not known",
        "the server does not know this key; check it, or ask the operator for one",
        status=401,
    ),
    Reason(
        "key_expired",
        1008,
        "key",
        "This key is no longer valid",
        "the key counted up to a day that is over; ask the operator for a new one",
        status=401,
    ),
    Reason(
        "bad_token",
        1008,
        "key",
        "This token does not count any more",
        "the token is unknown, used or too old; call again with a new one",
        status=401,
    ),
    Reason(
        "bad_authorization",
        1008,
        "key",
        "The key could not be read",
        "the Authorization header holds no key; send it as `Authorization: Bearer ...`",
        status=401,
    ),
    Reason(
        "key_in_query",
        1008,
        "key",
        "A key in an address is not taken",
        "addresses end up in logs; send the key as `Authorization: Bearer ...`, or a token",
        status=401,
    ),
    Reason(
        "not_for_this_key",
        1008,
        "key",
        "This key is not made for this call",
        "the key does not allow this protocol or model; ask the operator",
        status=403,
    ),
    # ---- what is asked for ----
    Reason(
        "bad_parameter",
        1008,
        "failed",
        "The server refused the call",
        "a parameter of the address has a value that the server does not take; change it",
        status=400,
    ),
    Reason(
        "model_not_found",
        1008,
        "failed",
        "The server refused the call",
        "the model that was asked for is not served here; ask for another, or for none",
        status=404,
    ),
    Reason(
        "webrtc_missing",
        1011,
        "failed",
        "This server has no WebRTC",
        "the package for WebRTC is not installed on the server; call it by websocket",
        status=501,
    ),
    Reason(
        "webrtc_unavailable",
        1013,
        "busy",
        "Server busy",
        "no UDP port is free for another call; try again in a moment",
        status=503,
        retry=5.0,
    ),
    Reason(
        "wrong_model",
        1008,
        "failed",
        "This server has another kind of model",
        "the model that is served here does not do this; call a server whose model does",
        status=404,
    ),
    Reason(
        "session_start_timeout",
        1008,
        "failed",
        "The server refused the call",
        "the call was not begun in time; send the first message of the protocol as soon as the "
        "connection is open",
        status=400,
    ),
    Reason(
        "origin",
        1008,
        "failed",
        "This page may not call this server",
        "the server takes no calls from web pages of this address; the operator can allow it with "
        "--origin",
        status=403,
    ),
    Reason(
        "signature",
        1008,
        "failed",
        "The server refused the call",
        "the request is not signed by the telephone account of this server; compare the auth token "
        "of --twilio-auth-token-file",
        status=403,
    ),
    Reason(
        "host",
        1008,
        "failed",
        "This server may not be called by this name",
        "call it by the name localhost, or let the operator allow the name with --allowed-hosts",
        status=403,
    ),
    # ---- between servers: callers never see these two ----
    Reason(
        "not_held",
        1008,
        "lost",
        "Connection lost",
        "this server does not hold the call; begin a new one",
        status=404,
    ),
    Reason(
        "voucher",
        1008,
        "failed",
        "The server refused the call",
        "another server passed the call on with a signature that does not count; give all servers "
        "the same token_secret_file, and the same time",
        status=403,
    ),
)

#: Every reason by its name.
REASONS: Final[dict[str, Reason]] = {reason.name: reason for reason in _TABLE}


def close_code(name: str, default: int = 1011) -> int:
    """Close code of a websocket that ends for a reason; `default` for one that is not known."""
    reason = REASONS.get(name)
    return default if reason is None else reason.close


def is_silent(name: str) -> bool:
    """Whether the client knows of this end without being told."""
    reason = REASONS.get(name)
    return reason is not None and reason.silent


def sentence_of(name: str) -> str:
    """What to tell a person about a reason; empty for one that is not known."""
    reason = REASONS.get(name)
    return "" if reason is None else reason.sentence
