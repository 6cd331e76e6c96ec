"""Refuses requests from web pages that have no business with the server."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from kaiwa.server import origins
from kaiwa.server.refusal import Refused
from kaiwa.server.settings import ServerSettings


def check(
    headers: Mapping[str, str],
    settings: ServerSettings,
    *,
    is_open: bool,
    more_hosts: Collection[str] = (),
) -> None:
    """Refuses a request of a web page of another origin.

    Args:
        headers: of the request, by lower-case names.
        settings: of the server.
        is_open: callers need no key.
        more_hosts: names by which the server may be called, too.

    Raises:
        Refused: 403.
    """
    check_host(headers.get("host"), settings, is_open=is_open, more_hosts=more_hosts)
    host = headers.get("host")
    if not origins.allowed(headers.get("origin"), host, settings.origin, secure=settings.secure):
        raise Refused(
            403,
            "origin",
            "web pages of this origin may not use this server; the operator can allow it "
            "with --origin",
        )


def check_host(
    host: str | None,
    settings: ServerSettings,
    *,
    is_open: bool,
    more_hosts: Collection[str] = (),
) -> None:
    """Refuses a request by a name that is not the server's.

    A page whose name was pointed at this machine (DNS rebinding) is of the same origin as the
    server, and shows only by its name. It has no key, so that with keys every name will do unless
    the operator has said which. An IP address is no name that can be pointed elsewhere.

    Args:
        host: the `Host` header.
        settings: of the server.
        is_open: callers need no key.
        more_hosts: names by which the server may be called, too.

    Raises:
        Refused: 403.
    """
    names = settings.allowed_hosts
    if "*" in names or (not is_open and not names):
        return
    here = origins.split_host(host)
    own = {*names, *more_hosts, *map(origins.host_of, (*settings.origin, settings.advertise_url))}
    if here is not None and here[0] in own:
        return
    if origins.is_own_name(host, settings.host):
        return
    if (settings.insecure or not is_open) and origins.is_address(host):
        return
    raise Refused(
        403,
        "host",
        "the server may not be called by this name; call it by the name localhost or a loopback "
        "address, or let the operator allow the name with --allowed-hosts (KAIWA_ALLOWED_HOSTS)",
    )
