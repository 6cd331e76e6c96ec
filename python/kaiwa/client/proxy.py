"""The proxy that the environment names for an address."""

from __future__ import annotations

import urllib.request
from urllib.parse import urlsplit

#: Which proxies are asked for a websocket, the first one that is named.
_KINDS = {"ws": ("ws", "socks", "https", "http"), "wss": ("wss", "socks", "https")}
_PORTS = {"ws": 80, "wss": 443}


def proxy_for(url: str) -> str | None:
    """Host and port of the proxy through which a websocket is opened; None if there is none.

    What may be in front of them, a name and a password, is left out.
    """
    parts = urlsplit(url)
    port = parts.port or _PORTS.get(parts.scheme, 80)
    if urllib.request.proxy_bypass(f"{parts.hostname}:{port}"):
        return None
    named = urllib.request.getproxies()
    found = next((named[kind] for kind in _KINDS.get(parts.scheme, ()) if kind in named), None)
    if found is None:
        return None
    return urlsplit(found if "://" in found else f"//{found}").netloc.rpartition("@")[2] or found


def advice(url: str) -> str:
    """What to do about a proxy that may be in the way to an address; empty if there is none."""
    proxy = proxy_for(url)
    if proxy is None:
        return ""
    host = urlsplit(url).hostname
    return (
        f"; it was looked for through the proxy {proxy}, which the environment names (HTTP_PROXY "
        f"and the like): if {host} can be reached without, add it to NO_PROXY"
    )
