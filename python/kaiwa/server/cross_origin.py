"""What pages of other origins may fetch, if the operator allows their origin (`--origin`).

Browsers ask first, by a request of the method OPTIONS, and keep answers without these headers from
the page. Calls are websockets, for which browsers do not ask.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kaiwa.server.access import Access
from kaiwa.server.refusal import Refused

#: The methods that pages may use, by the path of a route.
Paths = Mapping[str, tuple[str, ...]]

#: Headers that a page may send, and headers of answers that it may read.
SENT = "Authorization, Content-Type"
READ = "Location, Retry-After"
#: Beginnings of further headers that it may send, because OpenAI's packages do; nothing of theirs
#: is read here but the key and the dialect.
_PACKAGES = ("x-stainless-", "openai-", "api-key", "kyutai-api-key")
#: Seconds for which a browser need not ask again.
REMEMBERED = 600


class CrossOrigin:
    """Answers what browsers ask before a request, and marks the answers for them."""

    def __init__(self, app: ASGIApp, paths: Paths, access: Access) -> None:
        """Wraps an application.

        Args:
            app: what is asked.
            paths: what pages of other origins may fetch of it; each route module declares its own
                (`CROSS_ORIGIN`), and so does each wire protocol (`WireProtocol.cross_origin`).
            access: knows which pages may use the server.
        """
        self._app = app
        self._paths = dict(paths)
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        methods = self._paths.get(scope["path"]) if scope["type"] == "http" else None
        origin = Headers(scope=scope).get("origin") if methods else None
        if methods is None or origin is None:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            self._access.check_page(headers)
        except Refused as refused:
            if not _is_preflight(scope, headers):
                # The route refuses it too, as it does without these headers.
                await self._app(scope, receive, _varied(send))
                return
            answer = JSONResponse(refused.body(), refused.status, refused.headers())
            await answer(scope, receive, _varied(send))
            return
        if _is_preflight(scope, headers):
            named = {
                "Access-Control-Allow-Methods": ", ".join(methods),
                "Access-Control-Allow-Headers": _may_send(headers),
                "Access-Control-Max-Age": str(REMEMBERED),
            }
            await Response(status_code=204, headers=named)(scope, receive, _varied(send, origin))
            return
        await self._app(scope, receive, _varied(send, origin))


def _is_preflight(scope: Scope, headers: Headers) -> bool:
    """Whether a browser asks what a page may do."""
    return scope["method"] == "OPTIONS" and "access-control-request-method" in headers


def _may_send(headers: Headers) -> str:
    """The headers that a page may send, of those that it asks for, and in any case."""
    asked = headers.get("access-control-request-headers", "").lower().split(",")
    names = [name for name in map(str.strip, asked) if name.startswith(_PACKAGES)]
    return ", ".join([SENT, *names])


def _varied(send: Send, origin: str | None = None) -> Send:
    """Marks an answer as one for an origin; None: for no page."""

    async def marked(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.add_vary_header("Origin")
            if origin is not None:
                headers["Access-Control-Allow-Origin"] = origin
                headers["Access-Control-Expose-Headers"] = READ
        await send(message)

    return marked
