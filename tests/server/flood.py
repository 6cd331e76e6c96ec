"""A client that sends tiny websocket frames as fast as it can; a process of its own, since it would
take the time of a test's own threads.

    python -m tests.server.flood PORT HEX SECONDS

HEX is one frame with its mask. Prints the close code and reason as JSON. It sends to this machine
only, and ends after the seconds, or after as many frames as a flood needs to do harm.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import socket
import sys
import time

MOST_FRAMES = 3_000_000


def flood(port: int, frame: bytes, seconds: float) -> tuple[int, str]:
    """Sends frames until the server closes; gives code and reason, 0 if it did not."""
    until = time.monotonic() + seconds
    with socket.create_connection(("127.0.0.1", port), timeout=10) as made:
        key = base64.b64encode(os.urandom(16)).decode()
        made.sendall(
            f"GET /api/chat HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        got = b""
        while b"\r\n\r\n" not in got:
            got += made.recv(4096)
        made.setblocking(False)
        block, left = frame * 10_000, MOST_FRAMES // 10_000
        at = 0
        got = got.partition(b"\r\n\r\n")[2]
        while left and time.monotonic() < until:
            readable, writable, _ = select.select([made], [made], [], 0.1)
            if readable:
                try:
                    more = made.recv(65536)
                except OSError:
                    break
                if not more:
                    break
                got += more
                code = close_in(got)
                if code is not None:
                    return code
            if writable:
                with contextlib.suppress(OSError):
                    at += made.send(block[at:])
                if at == len(block):
                    at, left = 0, left - 1
    return close_in(got) or (0, "")


def close_in(got: bytes) -> tuple[int, str] | None:
    """Code and reason of the close frame in what a server sent."""
    at = 0
    while at + 2 <= len(got):
        opcode, length = got[at] & 15, got[at + 1] & 127
        head = 2
        if length == 126:
            length, head = int.from_bytes(got[at + 2 : at + 4], "big"), 4
        body = got[at + head : at + head + length]
        if opcode == 8 and len(body) == length:
            return int.from_bytes(body[:2], "big"), body[2:].decode()
        at += head + length
    return None


def masked(opcode: int, payload: bytes = b"") -> bytes:
    """One whole frame of a client, with a mask that changes nothing."""
    return bytes([0x80 | opcode, 0x80 | len(payload)]) + bytes(4) + payload


if __name__ == "__main__":
    print(json.dumps(flood(int(sys.argv[1]), bytes.fromhex(sys.argv[2]), float(sys.argv[3]))))
