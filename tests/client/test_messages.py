"""What messages mean."""

from __future__ import annotations

import pytest

from kaiwa.client import messages
from kaiwa.client.messages import Audio, Error, Handshake, Metadata, Ping, State, Text, parse


def test_handshakes_of_one_and_nine_bytes() -> None:
    assert parse(b"\0", 1.5) == Handshake(0, 0, 1.5)
    assert parse(b"\0\x01\0\0\0\x02\x01\0\0", 1.5) == Handshake(1, 258, 1.5)
    assert parse(b"\0\x01\0", 1.5) == Handshake(1, 0, 1.5)


def test_text_keeps_its_space_and_survives_bad_utf8() -> None:
    assert parse(b"\x02 hi", 0.0) == Text(" hi", 0.0)
    assert parse("\x02é".encode(), 0.0) == Text("é", 0.0)
    assert parse(b"\x02\xff", 0.0) == Text("\ufffd", 0.0)


def test_metadata_and_states() -> None:
    assert parse(b'\x04{"a": 1}', 0.0) == Metadata({"a": 1}, 0.0)
    event = parse(b'\x04{"state": "queued", "position": 2}', 0.0)
    assert isinstance(event, State)
    assert (event.state, event.position) == ("queued", 2)
    event = parse(b'\x04{"state": "queued", "position": true}', 0.0)
    assert isinstance(event, State)
    assert event.position is None


def test_errors_pings_and_audio() -> None:
    assert parse(b"\x05Too late.", 0.0) == Error("Too late.", 0.0)
    assert parse(b"\x06", 0.0) == Ping(b"", 0.0)
    event = parse(b"\x01abc", 2.0)
    assert isinstance(event, Audio)
    assert (event.payload, len(event.pcm), event.at) == (b"abc", 0, 2.0)


@pytest.mark.parametrize(
    "message",
    [b"", "text", b"\x03\x00", b"\x09xx", b"\x04{", b"\x04[1]", b"\x04" + b"[" * 100_000],
)
def test_what_means_nothing(message: bytes | str) -> None:
    assert parse(message, 0.0) is None


def test_a_frame_is_80_milliseconds() -> None:
    assert messages.FRAME_SECONDS == 0.08
