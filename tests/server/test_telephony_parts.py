"""Parts of the protocol of phone calls that need no server."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.server import phone
from tests.server.wire import tone
from twilio.request_validator import RequestValidator

from kaiwa import g711
from kaiwa.errors import InputError
from kaiwa.server.protocols.telephony import credentials, providers, signature
from kaiwa.server.protocols.telephony.codec import read_start
from kaiwa.server.protocols.telephony.line import Line
from kaiwa.server.protocols.telephony.playback import LIMIT, MARK_EVERY, Playback
from kaiwa.server.protocols.telephony.provider import Encoding, Provider
from kaiwa.server.protocols.telephony.signature import SignatureCheck
from kaiwa.server.refusal import Refused

TABLES: dict[str, Provider] = {
    "twilio": providers.TWILIO,
    "telnyx": providers.TELNYX,
    "plivo": providers.PLIVO,
    "exotel": providers.EXOTEL,
}

# ---- what waits to be played -------------------------------------------------------------------


def sent(playback: Playback, frames: int) -> list[str]:
    return [name for name in (playback.sent(1) for _ in range(frames)) if name is not None]


def test_a_mark_about_every_second() -> None:
    assert len(sent(Playback(), 10 * MARK_EVERY)) == 10


def test_a_short_queue_is_left_alone() -> None:
    playback = Playback()
    for _ in range(20):
        (name,) = sent(playback, MARK_EVERY)
        sent(playback, LIMIT)
        assert not playback.played(name)
        sent(playback, MARK_EVERY - LIMIT)
        # A mark that comes back twice, or was never sent, says nothing.
        assert not playback.played(name)
        assert not playback.played("frame-0")
        playback = Playback()


def test_a_long_queue_is_emptied_once() -> None:
    playback = Playback()
    first, second = sent(playback, 2 * MARK_EVERY)
    assert playback.played(first)
    # Sent back at once, since it was on its way when the queue was emptied.
    assert not playback.played(second)


def test_a_long_way_is_no_queue() -> None:
    """Half a second to the provider and back: emptied once, then never again."""
    playback = Playback()
    cleared = 0
    names = sent(playback, MARK_EVERY)
    for _ in range(10):
        names += sent(playback, LIMIT + 2)
        cleared += playback.played(names.pop(0)) if names else 0
        names += sent(playback, MARK_EVERY - LIMIT - 2)
    assert cleared == 1


def test_a_queue_behind_a_long_way_is_emptied() -> None:
    playback = Playback()
    (name,) = sent(playback, MARK_EVERY)
    sent(playback, LIMIT + 1)
    assert playback.played(name)
    (name,) = sent(playback, MARK_EVERY)
    sent(playback, 3)
    assert not playback.played(name)
    names = sent(playback, MARK_EVERY)
    sent(playback, 3 + LIMIT + 1)
    assert playback.played(names[-1])


def test_marks_that_never_come_back_take_no_memory() -> None:
    playback = Playback()
    sent(playback, 100_000)
    assert len(playback._pending) < 100


# ---- the line ----------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", Encoding, ids=lambda e: e.name)
@pytest.mark.parametrize("rate", [8000, 16000])
def test_a_block_goes_out_for_every_frame(encoding: Encoding, rate: int) -> None:
    line = Line(encoding, rate)
    frame = np.zeros(1920, np.float32)
    size = rate * encoding.at(rate).bytes_per_sample * 80 // 1000
    assert [len(line.say(frame)) for _ in range(50)] == [size] * 50


def test_a_provider_that_wants_longer_messages_gets_them() -> None:
    line = Line(Encoding.LINEAR_LE, 8000, frames=3)
    frame = np.zeros(1920, np.float32)
    assert [len(line.say(frame)) for _ in range(9)] == [0, 0, 3840] * 3


def test_what_is_said_is_heard_through_the_line() -> None:
    out, back = Line(Encoding.MULAW, 8000), Line(Encoding.MULAW, 8000)
    sound = tone(20, 440.0)
    heard = np.concatenate(
        [back.hear(out.say(frame)) for frame in np.split(sound, len(sound) // 1920)]
    )
    late = int(np.argmax(np.correlate(heard[4800:20000], sound[4800:9600], "valid")))
    assert abs(late) < 0.02 * 24000
    assert abs(float(np.std(heard[4800:-4800]) / np.std(sound)) - 1) < 0.05


def test_only_a_second_of_a_message_is_taken() -> None:
    line = Line(Encoding.MULAW, 8000)
    assert len(line.hear(bytes(1_000_000))) <= 24_000


def test_both_orders_of_bytes() -> None:
    little, big = Line(Encoding.LINEAR_LE, 24_000), Line(Encoding.LINEAR_BE, 24_000)
    assert little.hear(b"\0\x40\0")[0] == big.hear(b"\x40\0")[0] == 0.5
    sound = np.linspace(-1, 1, 1920, dtype=np.float32)
    said = np.frombuffer(little.say(sound), "<i2"), np.frombuffer(big.say(sound), ">i2")
    np.testing.assert_array_equal(said[0], said[1])


# ---- the start message -------------------------------------------------------------------------


@pytest.mark.parametrize("name", TABLES)
def test_a_start_message_is_read(name: str) -> None:
    start = read_start(TABLES[name], phone.PROVIDERS[name].start({"token": "kt_1"}))
    assert start.rate == 8000
    assert start.secret == "kt_1"
    linear = start.encoding is Encoding.LINEAR_LE
    assert linear == phone.PROVIDERS[name].linear


@pytest.mark.parametrize(
    "media_format",
    [
        {"encoding": "audio/opus"},
        {"encoding": None},
        {"encoding": ["audio/x-mulaw"]},
        {"sampleRate": 44100},
        {"sampleRate": True},
        {"sampleRate": "8e3"},
        {"sampleRate": None},
        {"channels": 2},
    ],
    ids=str,
)
def test_audio_that_is_not_understood_is_refused(media_format: dict[str, Any]) -> None:
    with pytest.raises(Refused, match="use audio/x-mulaw at 8000 Hz, one channel"):
        read_start(providers.TWILIO, phone.twilio_start({}, **media_format))


@pytest.mark.parametrize("stream", [None, 7, "", "x" * 300, {}])
def test_a_stream_needs_an_id(stream: Any) -> None:
    message = phone.twilio_start({})
    message["start"]["streamSid"] = stream
    with pytest.raises(Refused, match=r"no start\.streamSid"):
        read_start(providers.TWILIO, message)


@pytest.mark.parametrize("start", [None, [], "x", 1])
def test_a_start_message_of_any_kind(start: Any) -> None:
    for table in TABLES.values():
        with pytest.raises(Refused):
            read_start(table, {"event": "start", "start": start, "stream_id": "1"})


# ---- who calls ---------------------------------------------------------------------------------


def basic(text: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(text.encode()).decode()}


@pytest.mark.parametrize(
    ("headers", "secret"),
    [
        ({}, None),
        (basic("twilio:kw_1"), "kw_1"),
        (basic("kw_1:"), "kw_1"),
        (basic("kw_1"), "kw_1"),
        (basic("a:b:c"), "b:c"),
        ({"authorization": "Basic !!!"}, ""),
        ({"authorization": "Bearer kw_1"}, "kw_1"),
        ({"authorization": "Digest x"}, None),
        ({"x-own": "kw_1"}, "kw_1"),
    ],
)
def test_a_key_in_headers(headers: dict[str, str], secret: str | None) -> None:
    assert credentials.from_headers(headers, "x-own") == secret


@pytest.mark.parametrize(
    ("parameters", "secret"),
    [
        ({"token": "kt_1"}, "kt_1"),
        ("userId=1;token=kt_1", "kt_1"),
        ("userId=1, token=kt_1", "kt_1"),
        ('{"token": "kt_1"}', "kt_1"),
        ("{" * 100_000, None),
        ("", None),
        ({"token": ""}, None),
        ({"token": 5}, None),
        ([], None),
        (None, None),
    ],
)
def test_a_token_among_parameters(parameters: Any, secret: str | None) -> None:
    assert credentials.from_parameters(parameters) == secret


def test_a_key_is_shown_as_a_header_and_a_token_as_a_query() -> None:
    assert credentials.shown("kw_1", {"host": "h"}) == (
        {"host": "h", "authorization": "Bearer kw_1"},
        {},
    )
    assert credentials.shown("kt_1", {"host": "h"}) == ({"host": "h"}, {"token": "kt_1"})
    # What came with the request and is no key is not shown again.
    assert credentials.shown(None, basic("x:y")) == ({}, {})


# ---- signatures --------------------------------------------------------------------------------

TOKEN = "12345"
ADDRESS = "https://example.com/myapp.php?foo=1&bar=2"
FIELDS = {
    "CallSid": "CA1234567890ABCDE",
    "Caller": "+14158675310",
    "Digits": "1234",
    "From": "+14158675310",
    "To": "+18005551212",
}


def genuine(address: str, fields: dict[str, str] | None = None, token: str = TOKEN) -> str:
    """The signature that Twilio's own library makes."""
    return str(RequestValidator(token).compute_signature(address, fields or {}))


def test_the_signature_is_twilios_own() -> None:
    check = SignatureCheck([TOKEN])
    signed = genuine(ADDRESS, FIELDS)
    check.require(signed, ["https://other.example/", ADDRESS], FIELDS.items())
    check.require(genuine(ADDRESS), [ADDRESS])
    SignatureCheck(["newer", TOKEN]).require(signed, [ADDRESS], FIELDS.items())


def test_the_signature_of_the_documentation() -> None:
    fields = {**FIELDS, "Caller": "+14158675309", "From": "+14158675309"}
    address = "https://mycompany.com/myapp.php?foo=1&bar=2"
    SignatureCheck([TOKEN]).require("RSOYDt4T1cUTdK1PDd93/VVr8B8=", [address], fields.items())


@pytest.mark.parametrize(
    ("given", "address", "fields", "token"),
    [
        (None, ADDRESS, FIELDS, TOKEN),
        ("", ADDRESS, FIELDS, TOKEN),
        ("x" * 10_000, ADDRESS, FIELDS, TOKEN),
        ("é", ADDRESS, FIELDS, TOKEN),
        ("genuine", ADDRESS + "3", FIELDS, TOKEN),
        ("genuine", ADDRESS, {**FIELDS, "Digits": "1235"}, TOKEN),
        ("genuine", ADDRESS, {}, TOKEN),
        ("genuine", ADDRESS, FIELDS, "12346"),
    ],
)
def test_what_is_not_signed_is_refused(
    given: str | None, address: str, fields: dict[str, str], token: str
) -> None:
    signed = genuine(ADDRESS, FIELDS) if given == "genuine" else given
    with pytest.raises(Refused) as refused:
        SignatureCheck([token]).require(signed, [address], fields.items())
    assert (refused.value.status, refused.value.code) == (403, "signature")


@pytest.mark.parametrize(
    "known",
    [
        "https://kaiwa.example/telephony/twilio/voice",
        "https://kaiwa.example:443/telephony/twilio/voice",
        "http://kaiwa.example/telephony/twilio/voice",
        "https://me:secret@kaiwa.example/telephony/twilio/voice",
        "https://kaiwa.example/telephony/twilio/voice/",
    ],
)
@pytest.mark.parametrize("host", ["kaiwa.example", "kaiwa.example:443"])
def test_addresses_that_twilio_may_know(known: str, host: str) -> None:
    found = signature.addresses(host, "/telephony/twilio/voice", "", ("https", "http"), "me:secret")
    assert known in found


def test_a_file_of_auth_tokens(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("new\n12345\n")
    SignatureCheck.read(str(path)).require(genuine(ADDRESS), [ADDRESS])
    for wrong in (b"", b"\n \n", b"\xff", b"x" * 5000):
        path.write_bytes(wrong)
        with pytest.raises(InputError, match="holds no auth token; put the account's"):
            SignatureCheck.read(str(path))
    with pytest.raises(InputError, match="cannot be read"):
        SignatureCheck.read(str(tmp_path / "missing"))


def test_the_phone_of_the_tests_speaks_g711() -> None:
    """The tests' own bytes are those of the recommendation."""
    assert g711.encode(np.zeros(3, np.float32), "mulaw") == b"\xff\xff\xff"
