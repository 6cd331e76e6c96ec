"""Addresses of servers, as people type them."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from kaiwa.errors import InputError

PATH = "/api/chat"
PORT = 8998

_SCHEMES = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}


def chat_url(url: str, query: Mapping[str, str] | None = None, path: str = PATH) -> str:
    """The websocket address of a server's calls.

    Args:
        url: `ws://host:port/api/chat`, `https://host`, `host:port` or `host` (port 8998). A path
            other than `/` is kept.
        query: parameters to add; they replace those of the same name.
        path: where the calls of a protocol are opened.

    Raises:
        InputError: it is no address of that kind.
    """
    wrong = InputError(
        f"{url!r} is no address of a server; give ws://host:port, https://host or host:port"
    )
    bare = "://" not in url
    try:
        parts = urlsplit(f"ws://{url}" if bare else url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise wrong from None
    if parts.scheme not in _SCHEMES or not host or any(c.isspace() for c in url):
        raise wrong
    place = parts.netloc if port or not bare else f"{parts.netloc.rstrip(':')}:{PORT}"
    where = path if parts.path in ("", "/") else parts.path
    values = dict(parse_qsl(parts.query, keep_blank_values=True)) | dict(query or {})
    return urlunsplit((_SCHEMES[parts.scheme], place, where, urlencode(values), ""))


def is_local(url: str) -> bool:
    """Whether the address is this machine's own."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def without_query(url: str) -> str:
    """The address for messages: query parameters can hold a token."""
    return urlunsplit(urlsplit(url)._replace(query="", fragment=""))
