"""The wire of `/api/chat` as the tests see it: messages one by one, Ogg pages byte by byte."""

from __future__ import annotations

import asyncio
import json
import struct
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

HANDSHAKE, AUDIO, TEXT, CONTROL, METADATA, ERROR, PING = range(7)
RATE, FRAME = 24_000, 1920

Array = NDArray[np.float32]


class Call:
    """One websocket; keeps every message it was sent."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.seen: list[bytes] = []

    async def message(self, seconds: float = 10.0) -> bytes:
        """The next message."""
        got = await asyncio.wait_for(self.socket.recv(), seconds)
        assert isinstance(got, bytes), got
        self.seen.append(got)
        return got

    async def find(self, kind: int, seconds: float = 10.0) -> bytes:
        """Payload of the next message of a type."""
        until = time.monotonic() + seconds
        while True:
            got = await self.message(until - time.monotonic())
            if got[0] == kind:
                return got[1:]

    async def begin(self) -> dict[str, Any]:
        """Waits for the slot; gives the metadata."""
        assert (await self.find(HANDSHAKE)) == bytes(8)
        about: dict[str, Any] = json.loads(await self.find(METADATA))
        return about

    async def send(self, kind: int, payload: bytes = b"") -> None:
        await self.socket.send(bytes([kind]) + payload)

    async def say(self, *payloads: bytes) -> None:
        """Audio messages."""
        for payload in payloads:
            await self.send(AUDIO, payload)

    async def frames(self, count: int) -> list[bytes]:
        """Payloads of the next audio messages."""
        return [await self.find(AUDIO) for _ in range(count)]

    async def gone(self, seconds: float = 15.0) -> tuple[int, str]:
        """Reads to the end; gives close code and reason."""
        try:
            while True:
                await self.message(seconds)
        except ConnectionClosed:
            pass
        return self.socket.close_code or 0, self.socket.close_reason or ""

    @property
    def said(self) -> list[str]:
        """Error messages so far."""
        return [m[1:].decode() for m in self.seen if m[0] == ERROR]

    def cut(self) -> None:
        """Breaks the connection without a word."""
        self.socket.transport.abort()


@asynccontextmanager
async def call(url: str, begin: bool = True, **options: Any) -> AsyncIterator[Call]:
    """A call; closed with the block."""
    options = {"compression": None, "ping_interval": None, "max_queue": None, **options}
    async with connect(url, proxy=None, close_timeout=1, **options) as socket:
        made = Call(socket)
        if begin:
            await made.begin()
        yield made


async def refusal(url: str, **headers: str) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, error and headers of a websocket that is not let in."""
    try:
        async with connect(url, proxy=None, additional_headers=headers):
            pass
    except InvalidStatus as refused:
        answer = refused.response
        named = {name.lower(): value for name, value in answer.headers.raw_items()}
        return answer.status_code, json.loads(answer.body or b"{}")["error"], named
    raise AssertionError("it was let in")


# ---- audio -----------------------------------------------------------------------------------


def tone(frames: int, hertz: float = 330.0) -> Array:
    """A tone of whole frames."""
    t = np.arange(frames * FRAME) / RATE
    made: Array = (0.3 * np.sin(2 * np.pi * hertz * t)).astype(np.float32)
    return made


def pcm16(samples: Array) -> bytes:
    return np.rint(samples * 32767).astype("<i2").tobytes()


def from_pcm16(payloads: Iterable[bytes]) -> Array:
    made = np.frombuffer(b"".join(payloads), "<i2").astype(np.float32)
    made /= 32768
    return made


def loudness(samples: Array) -> float:
    return float(np.sqrt(np.mean(np.square(samples))))


def pitch(samples: Array) -> float:
    """The strongest frequency in hertz."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum) * RATE / len(samples))


# ---- Ogg -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Page:
    """One page."""

    flags: int
    granule: int
    serial: int
    sequence: int
    lacing: bytes
    body: bytes

    @property
    def packets(self) -> list[bytes]:
        """Packets, which must end in the page."""
        found, start, length = [], 0, 0
        for value in self.lacing:
            length += value
            if value < 255:
                found.append(self.body[start : start + length])
                start, length = start + length, 0
        assert length == 0, "a packet goes on in the next page"
        return found


def _crc_table() -> list[int]:
    table = []
    for number in range(256):
        value = number << 24
        for _ in range(8):
            value = (value << 1) ^ (0x04C11DB7 if value & 0x80000000 else 0)
        table.append(value & 0xFFFFFFFF)
    return table


_TABLE = _crc_table()


def checksum(page: bytes) -> int:
    """Checksum of RFC 3533, of a page whose own field is taken as zero."""
    value = 0
    for byte in page[:22] + bytes(4) + page[26:]:
        value = ((value << 8) & 0xFFFFFFFF) ^ _TABLE[(value >> 24) ^ byte]
    return value


def pages(data: bytes) -> list[Page]:
    """Whole pages with right checksums, and nothing else."""
    found, at = [], 0
    while at < len(data):
        head = struct.unpack_from("<4sBBqIIIB", data, at)
        assert head[:2] == (b"OggS", 0)
        lacing = data[at + 27 : at + 27 + head[7]]
        end = at + 27 + head[7] + sum(lacing)
        assert len(lacing) == head[7]
        assert end <= len(data), "a page is cut"
        assert head[6] == checksum(data[at:end])
        body = data[at + 27 + head[7] : end]
        found.append(Page(head[2], head[3], head[4], head[5], lacing, body))
        at = end
    return found


def page(
    packets: Iterable[bytes],
    sequence: int,
    *,
    flags: int = 0,
    serial: int = 7,
    granule: int = 0,
    lacing: bytes | None = None,
) -> bytes:
    """A page of whole packets; `lacing` in place of the right one."""
    body = list(packets)
    if lacing is None:
        lacing = b"".join(b"\xff" * (len(p) // 255) + bytes([len(p) % 255]) for p in body)
    head = struct.pack("<4sBBqIIIB", b"OggS", 0, flags, granule, serial, sequence, 0, len(lacing))
    made = head + lacing + b"".join(body)
    return made[:22] + struct.pack("<I", checksum(made)) + made[26:]


def headers(serial: int = 7, rate: int = 48_000, vendor: bytes = b"tests") -> tuple[bytes, bytes]:
    """The two pages a stream begins with."""
    head = b"OpusHead" + struct.pack("<BBHIHB", 1, 1, 3840, rate, 0, 0)
    tags = b"OpusTags" + struct.pack("<I", len(vendor)) + vendor + struct.pack("<I", 0)
    return page([head], 0, flags=2, serial=serial), page([tags], 1, serial=serial)
