"""Which web pages may use the server, and by which host names it may be called."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

_DEFAULT_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}

_NAME = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?")


def allowed(
    origin: str | None, host: str | None, allow: Iterable[str] = (), *, secure: bool = False
) -> bool:
    """Whether a request may come from the page that its `Origin` header names.

    A request without the header does not come from a web page. `null` is the origin of pages that
    anybody can make (a sandboxed frame, a file) and is always refused.

    Args:
        origin: the `Origin` header.
        host: the `Host` header; a page of the same host and port is allowed.
        allow: further origins in the form of `normal_entry`; `*` is every origin.
        secure: the request came by TLS to this process, so that a page fetched without it is
            another origin. Behind a proxy that ends TLS this is unknown: leave it False.
    """
    if origin is None:
        return True
    page = _parts(origin)
    if page is None:
        return False
    entries = tuple(allow)
    if "*" in entries or _written(page) in entries:
        return True
    scheme, name, port = page
    if scheme not in ("http", "https") or (secure and scheme != "https"):
        return False
    here = split_host(host)
    if here is None:
        return False
    own_port = _DEFAULT_PORTS[scheme] if here[1] is None else here[1]
    return (name, port) == (here[0], own_port)


def normal_entry(entry: str) -> str | None:
    """An entry of the list of allowed origins as it is compared: lower case, no default port.

    None if it is neither an origin nor `*`.
    """
    if entry == "*":
        return entry
    parts = _parts(entry.rstrip("/"))
    return _written(parts) if parts else None


def split_host(host: str | None) -> tuple[str, int | None] | None:
    """Name and port of a `Host` header: lower case, addresses in their shortest form.

    None if there is none or it is malformed.
    """
    if not host or re.search(r"[\s/@?#\\]", host):
        return None
    # `urlsplit` of some versions leaves out what follows the bracket.
    if "[" in host and not re.fullmatch(r"\[[^\[\]]*\](:\d*)?", host):
        return None
    try:
        parts = urlsplit(f"//{host}")
        name, port = _normal_name(parts.hostname, "[" in host), parts.port
    except ValueError:
        return None
    return None if name is None else (name, port)


def is_loopback(name: str) -> bool:
    """Whether a name or address can only mean this machine."""
    bare = name.lower().rstrip(".").strip("[]")
    if bare == "localhost" or bare.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def is_own_name(host: str | None, bound: str) -> bool:
    """Whether a `Host` header names this machine: a loopback name, or the address listened on.

    A page whose own name was pointed at this machine (DNS rebinding) sends its own name.
    """
    here = split_host(host)
    if here is None:
        return False
    own = split_host(f"[{bound}]" if ":" in bound else bound)
    return is_loopback(here[0]) or (own is not None and own[0] == here[0])


def is_address(host: str | None) -> bool:
    """Whether a `Host` header is an IP address. Nobody can point one at another machine."""
    here = split_host(host)
    if here is None:
        return False
    try:
        ipaddress.ip_address(here[0])
    except ValueError:
        return False
    return True


def host_of(address: str | None) -> str | None:
    """The host name of an address such as `https://example.com:8443`; None if it has none."""
    parts = _parts(address) if address else None
    return parts[1] if parts else None


def _parts(origin: str) -> tuple[str, str, int | None] | None:
    """Scheme, name and port of an origin; None if it is none."""
    match = re.fullmatch(r"([A-Za-z][A-Za-z0-9+.-]*)://([^\s/@?#\\]+)", origin)
    if match is None:
        return None
    scheme = match[1].lower()
    here = split_host(match[2])
    if here is None:
        return None
    name, port = here
    return scheme, name, _DEFAULT_PORTS.get(scheme) if port is None else port


def _written(parts: tuple[str, str, int | None]) -> str:
    """An origin in its one form."""
    scheme, name, port = parts
    host = f"[{name}]" if ":" in name else name
    shown = "" if port is None or port == _DEFAULT_PORTS.get(scheme) else f":{port}"
    return f"{scheme}://{host}{shown}"


def _normal_name(name: str | None, bracketed: bool) -> str | None:
    """A host name or address in its one form; None if it is malformed."""
    if not name:
        return None
    if bracketed:
        return ipaddress.IPv6Address(name).compressed
    name = name.removesuffix(".").lower()
    return name if _NAME.fullmatch(name) else None
