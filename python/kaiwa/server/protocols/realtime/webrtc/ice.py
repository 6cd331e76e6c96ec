"""The UDP sockets of a call: which addresses and ports they have, and which are told to the client.

The package aioice binds every address of the machine, at any port; this takes the place of that
part of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import ipaddress
import random
import socket
from typing import Any

from aioice import Candidate, Connection
from aioice.candidate import candidate_foundation, candidate_priority
from aioice.ice import (
    StunProtocol,
    get_host_addresses,
    relayed_candidate,
    server_reflexive_candidate,
)

from kaiwa.server.protocols.realtime.webrtc.limits import Intake
from kaiwa.server.protocols.realtime.webrtc.network import Network

#: Seconds that servers of STUN and TURN may take.
SERVER_SECONDS = 5.0
#: Bytes that may wait in the system for one socket: a second of sound, and then some.
RECEIVE_BUFFER = 256 << 10


class CallSocket(StunProtocol):
    """A socket of one call."""

    def __init__(self, connection: Connection, intake: Intake) -> None:
        super().__init__(connection)
        self._intake = intake

    def datagram_received(self, data: bytes | str, addr: tuple[Any, ...]) -> None:
        """A packet, from anyone."""
        if self._intake.packet():
            super().datagram_received(data, addr)


def place(connection: Connection, network: Network, intake: Intake) -> None:
    """Has a connection listen where the operator wants it, once it gathers its candidates."""

    async def candidates(component: int, addresses: list[str], timeout: int = 5) -> list[Candidate]:
        del addresses, timeout
        sockets = [
            await _bound(connection, address, network.ports, intake)
            for address in host_addresses(network.host)
        ]
        own = [made for made in sockets if made is not None]
        for made in own:
            made.local_candidate = _host_candidate(made, component)
        connection._protocols += own
        told = [_told(made.local_candidate, network.address) for made in own]
        return [*told, *await _of_servers(connection, component, own, intake)]

    connection.get_component_candidates = candidates  # type: ignore[method-assign]


async def _bound(
    connection: Connection, address: str, ports: range | None, intake: Intake
) -> CallSocket | None:
    """A socket at an address; None if there is no port left."""
    loop = asyncio.get_running_loop()
    choice = [0] if ports is None else random.sample(ports, len(ports))
    for port in choice:
        with contextlib.suppress(OSError):
            transport, made = await loop.create_datagram_endpoint(
                lambda: CallSocket(connection, intake), local_addr=(address, port)
            )
            bare = transport.get_extra_info("socket")
            if bare is not None:
                bare.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            return made
    return None


def _host_candidate(made: CallSocket, component: int) -> Candidate:
    host, port = made.transport.get_extra_info("sockname")[:2]
    return Candidate(
        foundation=candidate_foundation("host", "udp", host),
        component=component,
        transport="udp",
        priority=candidate_priority(component, "host"),
        host=host,
        port=port,
        type="host",
    )


def _told(candidate: Candidate, address: str | None) -> Candidate:
    """A candidate as the client is told it."""
    if address is None or _version(address) != _version(candidate.host):
        return candidate
    made = copy.copy(candidate)
    made.host = address
    return made


async def _of_servers(
    connection: Connection, component: int, own: list[CallSocket], intake: Intake
) -> list[Candidate]:
    """Candidates by STUN and TURN, if the operator named servers."""
    tasks: list[asyncio.Task[tuple[Candidate, StunProtocol | None]]] = []
    if connection.stun_server:
        tasks += [
            asyncio.create_task(server_reflexive_candidate(made, connection.stun_server))
            for made in own
            if _version(made.local_candidate.host) == 4
        ]
    if connection.turn_server:
        relayed: Any = relayed_candidate(
            component=component,
            hide_related_address=True,
            protocol_factory=lambda: CallSocket(connection, intake),
            turn_server=connection.turn_server,
            turn_username=connection.turn_username,
            turn_password=connection.turn_password,
            turn_ssl=connection.turn_ssl,
            turn_transport=connection.turn_transport,
        )
        tasks.append(asyncio.create_task(relayed))
    if not tasks:
        return []
    done, late = await asyncio.wait(tasks, timeout=SERVER_SECONDS)
    for task in late:
        task.cancel()
    found = []
    for task in done:
        if task.exception() is None:
            candidate, relay = task.result()
            found.append(candidate)
            if relay is not None:
                connection._protocols.append(relay)
    return found


def host_addresses(host: str) -> list[str]:
    """The addresses to bind on a server that listens at `host`; those of all networks of the
    machine, if that is every address."""
    here = ipaddress.ip_address(_resolved(host))
    if not here.is_unspecified:
        return [str(here)]
    return get_host_addresses(use_ipv4=True, use_ipv6=here.version == 6) or ["127.0.0.1"]


def _version(address: str) -> int:
    return ipaddress.ip_address(address).version


def _resolved(host: str) -> str:
    """The first address of a name."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)[0][4][0])
