"""A client that sends tiny websocket frames as fast as it can; a process of its own, since it would
take the time of a test's own threads.

    python -m tests.server.flood PORT HEX SECONDS
    python -m tests.server.flood PORT connect SECONDS
    python -m tests.server.flood PORT connect-wait SECONDS

HEX is one frame with its mask. Prints the close code and reason as JSON. With `connect` it opens
as many connections as it can and closes each at once, with `connect-wait` when fifty more have
come; it prints how many. It sends to this machine only, and ends after the seconds, or after as
many frames as a flood needs to do harm.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import json
import os
import select
import socket
import struct
import sys
import time
from collections import deque

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


def connect(port: int, seconds: float, kept: int = 0) -> int:
    """Opens connections and closes each when so many more have been opened; gives their number."""
    until, count = time.monotonic() + seconds, 0
    waiting: deque[socket.socket] = deque()
    while time.monotonic() < until:
        made = socket.socket()
        made.setblocking(False)
        # Resets, so that this machine does not run out of ports.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if made.connect_ex(("127.0.0.1", port)) in (0, errno.EINPROGRESS):
            count += 1
        waiting.append(made)
        while len(waiting) > kept:
            waiting.popleft().close()
    for made in waiting:
        made.close()
    return count


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
    port, what, seconds = int(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    if what.startswith("connect"):
        print(connect(port, seconds, 50 if what == "connect-wait" else 0))
    else:
        print(json.dumps(flood(port, bytes.fromhex(what), seconds)))
