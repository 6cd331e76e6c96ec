"""What went wrong with a connection, as errors that say what to do."""

from __future__ import annotations

import asyncio
import json
import ssl
from typing import Any

from websockets.exceptions import (
    InvalidHandshake,
    InvalidStatus,
    ProxyError,
    WebSocketException,
)

from kaiwa import reasons
from kaiwa.client import proxy
from kaiwa.client.messages import printable
from kaiwa.client.url import is_local, without_query
from kaiwa.errors import ServerError

#: Seconds to wait where neither the server nor the table names any but another attempt makes sense.
RETRY = reasons.SOON

#: What to do where a refusal names no reason that is known, by its HTTP status.
_ADVICE = {
    400: "change the parameters",
    401: "pass a valid key with --key or KAIWA_KEY",
    403: "the server does not serve this origin; ask its operator",
    404: "check the address: no Moshi server answers there",
    429: "the key's limit is reached",
    503: "the server takes no more calls now",
}

_CODES = {400: "bad_request", 401: "unauthorized", 403: "forbidden", 404: "not_found"}

#: Close codes after which another attempt makes sense, where the reason is not in the table: lost,
#: an error inside, a restart, overload.
_PASSING = (1006, 1011, 1012, 1013)

#: What connecting may raise; ImportError is that of a proxy whose package is missing.
CONNECTING = (WebSocketException, OSError, EOFError, asyncio.TimeoutError, ImportError)

#: Closes that are no fault.
NORMAL = (1000, 1005)


def unreachable(url: str, error: Exception) -> ServerError:
    """The error for a connection that did not come about."""
    place = without_query(url)
    through = "" if is_local(url) else proxy.advice(url)
    if isinstance(error, InvalidStatus):
        return refused(place, error.response)
    if isinstance(error, ssl.SSLError):
        return ServerError(
            f"no secure connection to {place} ({error.reason or error}); check the certificate, or "
            "use ws:// for a server without one",
            code="unreachable",
        )
    if isinstance(error, (ProxyError, ImportError)):
        return ServerError(
            f"no way through the proxy to {place} ({error}); check the proxy settings{through}",
            code="unreachable",
        )
    if isinstance(error, (InvalidHandshake, WebSocketException, EOFError)):
        return ServerError(
            f"{place} does not speak websocket ({error}); check the address{through}",
            code="unreachable",
        )
    if isinstance(error, OSError) and not isinstance(error, TimeoutError):
        reason = error.strerror or str(error) or type(error).__name__
        return ServerError(
            f"no server at {place} ({reason}); check the address, or start one: kaiwa serve"
            f"{through}",
            code="unreachable",
            retry=RETRY,
        )
    return ServerError(
        f"no answer from {place} in time; check the address{through}", code="timeout", retry=RETRY
    )


def refused(place: str, response: Any) -> ServerError:
    """The error for an HTTP answer instead of a websocket."""
    status = int(response.status_code)
    code, message = _body(bytes(response.body or b""))
    code = code or _CODES.get(status, f"http_{status}")
    retry = _seconds(response.headers.get("Retry-After"))
    if retry is None:
        retry = _retry(code, status in (429, 503))
    what = f"{place} refused the call: {message or 'no reason given'} (HTTP {status}, {code})"
    advice = reasons.sentence_of(code) or _ADVICE.get(status, "check the address")
    todo = [] if message else [advice]
    if status == 401 and message:
        todo.append(_ADVICE[401])
    if retry is not None:
        todo.append(f"try again in {retry:g} s")
    return ServerError("; ".join([what, *todo]), code=code, retry=retry, status=status)


def closed(place: str, status: int, reason: str, said: str | None) -> ServerError:
    """The error for a connection that ended with `status`, after the server had `said` why."""
    reason, said = printable(reason), printable(said or "")
    nameless = "lost" if status == 1006 else f"close_{status}"
    word = (reason.split() or [nameless])[0]
    standard = reasons.sentence_of(word) if reason else ""
    unknown = "the connection was lost" if status == 1006 else "no reason given"
    why = said or standard or reason or unknown
    retry = _retry(word, status in _PASSING)
    todo = f"; try again in {retry:g} s" if retry is not None else ""
    return ServerError(
        f"{place} ended the call: {why.rstrip('.')} (close {status}, {word}){todo}",
        code=word,
        retry=retry,
        status=status,
    )


def _retry(code: str, passes: bool) -> float | None:
    """Seconds to wait before another attempt, by the table; for reasons that are not in it,
    `passes` says whether one makes sense."""
    reason = reasons.REASONS.get(code)
    if reason is not None:
        return reason.retry
    return RETRY if passes else None


def _body(data: bytes) -> tuple[str, str]:
    """Code and message of a refusal's JSON; empty where it is something else."""
    try:
        error = json.loads(data)["error"]
        message = " ".join(printable(str(error["message"])).split()).rstrip(".")
        return printable(str(error.get("code") or "")), message
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "", ""


def _seconds(header: str | None) -> float | None:
    """`Retry-After` in seconds; dates are not read."""
    try:
        value = float(header or "")
    except ValueError:
        return None
    return value if 0 <= value < 1e6 else None
