"""Parts of WebRTC without a network."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from av import AudioFrame

from kaiwa.errors import InputError
from kaiwa.server.protocols.realtime.webrtc import track
from kaiwa.server.protocols.realtime.webrtc.limits import Bucket, Intake, count_pieces
from kaiwa.server.protocols.realtime.webrtc.offer import MOST_CANDIDATES, Offer
from kaiwa.server.protocols.realtime.webrtc.track import Incoming, OutgoingTrack
from kaiwa.server.settings import ServerSettings

OFFER = "\n".join(
    [
        "v=0",
        "o=- 1 1 IN IP4 0.0.0.0",
        "s=-",
        "t=0 0",
        "a=group:BUNDLE 0 1",
        "m=audio 9 UDP/TLS/RTP/SAVPF 111",
        "a=rtpmap:111 opus/48000/2",
        "a=ice-ufrag:abcd",
        "a=ice-pwd:0123456789012345678901",
        "a=fingerprint:sha-256 AA:BB",
        *(f"a=candidate:1 1 udp 1 192.0.2.{n} 5000 typ host" for n in range(30)),
        "a=candidate:1 1 tcp 1 192.0.2.99 9 typ host tcptype active",
        "a=candidate:1 1 udp 1 2f.local 5000 typ host",
        "a=end-of-candidates",
        "m=application 9 UDP/DTLS/SCTP webrtc-datachannel",
        "a=ice-ufrag:abcd",
        "a=ice-pwd:0123456789012345678901",
        "a=fingerprint:sha-256 AA:BB",
        "",
    ]
)


def test_the_server_sends_to_no_address_that_it_was_told() -> None:
    offer = Offer.read(OFFER, {})
    assert offer.events
    assert "candidate" not in offer.for_peer(candidates=False)
    # With STUN or TURN it has to be the first to send, but to few, and asks no network for names.
    helped = offer.for_peer(candidates=True)
    assert helped.count("a=candidate") == MOST_CANDIDATES
    assert ".local" not in helped
    assert " tcp " not in helped
    assert "end-of-candidates" not in helped


def test_a_bucket_saves_up_what_is_not_used() -> None:
    bucket = Bucket(10, 20, 0.0)
    assert bucket.spend(20, 0.0)
    assert not bucket.spend(1, 0.0)
    assert bucket.spend(9, 1.0)
    assert bucket.spend(20, 100.0)
    assert not bucket.spend(1, 100.0)


def test_an_intake_says_once_that_there_is_too_much() -> None:
    said: list[int] = []
    intake = Intake(lambda: 0.0, lambda: said.append(1))
    took = sum(intake.packet() for _ in range(5000))
    assert (took, said) == (1000, [1])
    intake = Intake(lambda: 0.0, lambda: said.append(1))
    assert intake.pieces(10, 256)
    assert not intake.pieces(1, 257)
    assert not intake.packet()


def test_pieces_of_messages_are_counted_whatever_a_packet_holds() -> None:
    head = bytes(12)
    data = bytes([0, 3, 0, 17]) + bytes(13) + bytes(3)
    sack = bytes([3, 0, 0, 16]) + bytes(12)
    assert count_pieces(head + data + sack + data) == 2
    rng = np.random.default_rng(1)
    for size in range(0, 200):
        count_pieces(rng.bytes(size))


async def test_the_outgoing_track_keeps_time_and_fills_gaps() -> None:
    out = OutgoingTrack()
    sound = np.arange(1, 1921, dtype=np.int16)
    out.push(sound.tobytes())
    frames = [await out.recv() for _ in range(5)]
    assert [frame.pts for frame in frames] == [0, 480, 960, 1440, 1920]
    samples = np.concatenate([frame.to_ndarray()[0] for frame in frames])
    np.testing.assert_array_equal(samples[:1920], sound)
    assert not samples[1920:].any()


async def test_what_waits_too_long_is_cut_in_its_pauses() -> None:
    out = OutgoingTrack()
    pause, speech = np.zeros(480 * 20, np.int16), np.full(480 * 4, 9000, np.int16)
    out.push(pause.tobytes() + speech.tobytes())
    first = (await out.recv()).to_ndarray()
    assert not first.any()
    levels = [int((await out.recv()).to_ndarray().max()) for _ in range(8)]
    assert levels == [0] * 4 + [9000] * 4
    out.push(np.full(480 * 200, 7, np.int16).tobytes())
    assert len(out._unsent) == track._MOST * track._PIECE
    out.clear()
    assert not (await out.recv()).to_ndarray().any()


def test_lost_packets_are_silence_of_the_same_length() -> None:
    incoming = Incoming()

    def frame(number: int) -> AudioFrame:
        made = AudioFrame.from_ndarray(
            np.full((1, 2 * 960), 5000, np.int16), format="s16", layout="stereo"
        )
        made.sample_rate, made.pts = 48_000, number * 960
        return made

    heard = b"".join(incoming.pcm(frame(number)) for number in (0, 1, 4, 5, 1000, 1001))
    samples = np.frombuffer(heard, np.int16)
    # Two packets are missing; a jump of 20 seconds is no loss.
    assert abs(len(samples) - 8 * 480) < 60
    assert (samples == 0).sum() >= 2 * 480


@pytest.mark.parametrize(
    "given",
    [
        {"webrtc_ports": "50000"},
        {"webrtc_ports": "80-90"},
        {"webrtc_ports": "50010-50000"},
        {"webrtc_ports": "50000-70000"},
        {"webrtc_address": "kaiwa.example"},
        {"webrtc_stun": "stun.example"},
        {"webrtc_turn": "turn:user:secret@turn.example"},
    ],
)
def test_settings_that_cannot_be(given: dict[str, str]) -> None:
    with pytest.raises(InputError, match=r"give"):
        ServerSettings(**given)  # type: ignore[arg-type]


def test_ports_as_a_range() -> None:
    assert ServerSettings(webrtc_ports="50000-50009").webrtc_port_range == range(50000, 50010)
    assert asyncio.iscoroutinefunction(OutgoingTrack.recv)
