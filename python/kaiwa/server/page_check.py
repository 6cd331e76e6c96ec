"""Refuses requests from web pages that have no business with the server."""

from __future__ import annotations

from collections.abc import Mapping

from kaiwa.server import origins
from kaiwa.server.refusal import Refused
from kaiwa.server.settings import ServerSettings


def check(headers: Mapping[str, str], settings: ServerSettings, *, is_open: bool) -> None:
    """Refuses a request of a web page of another origin.

    A server without keys, on which everybody is an operator, must also be called by a name of its
    own machine: a page whose name was pointed at this machine (DNS rebinding) is of the same origin
    as the server, and shows only by its name.

    Args:
        headers: of the request, by lower-case names.
        settings: of the server.
        is_open: callers need no key.

    Raises:
        Refused: 403.
    """
    host = headers.get("host")
    if is_open and not settings.insecure and not origins.is_own_name(host, settings.host):
        raise Refused(
            403,
            "host",
            "this server has no keys and serves only its own machine, by the name localhost "
            "or a loopback address; call it so, or make a key with `kaiwa key add`",
        )
    if not origins.allowed(headers.get("origin"), host, settings.origin, secure=settings.secure):
        raise Refused(
            403,
            "origin",
            "web pages of this origin may not use this server; the operator can allow it "
            "with --origin",
        )
