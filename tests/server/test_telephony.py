"""Phone calls through running servers: every provider, who may call, how calls end, abuse."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
from tests.server.conftest import MakeKey
from tests.server.live import At, Live, eventually, running
from tests.server.phone import PACKET, PROVIDERS, RATE, Phone, dial, twilio_start
from tests.server.wire import call, refusal
from twilio.request_validator import RequestValidator
from websockets.exceptions import ConnectionClosed, InvalidStatus

from kaiwa import g711
from kaiwa.server.call import call as calls
from kaiwa.server.guards import MAX_BODY
from kaiwa.server.protocols.telephony import codec
from kaiwa.server.protocols.telephony.playback import LIMIT, MARK_EVERY
from kaiwa.server.protocols.telephony.voice import connect

AUTH_TOKEN = "0123456789abcdef"


def sine(seconds: float, hertz: float = 400.0) -> Any:
    t = np.arange(round(seconds * RATE)) / RATE
    return (0.3 * np.sin(2 * np.pi * hertz * t)).astype(np.float32)


def active(at: At, provider: str = "twilio") -> float:
    return at.metric(f'kaiwa_conversations_active{{protocol="{provider}"}}')


async def begun(live: At, provider: str = "twilio") -> None:
    await eventually(lambda: active(live, provider) == 1, "the call has its slot")


# ---- a call ------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_what_the_caller_says_comes_back(echo: Live, provider: str) -> None:
    sound = sine(1.2)
    async with dial(echo.port, provider) as phone:
        await phone.begin()
        await begun(echo, provider)
        (row,) = echo.ask("/v1/sessions").json["sessions"]
        assert (row["protocol"], row["state"]) == (provider, "active")
        await phone.speak(sound)
        await eventually(lambda: len(phone.answer) >= len(sound), "the answer was played")
        answer = phone.answer
        await phone.stop()
        await eventually(lambda: phone.closed[0] is not None)
        if phone.words.stop is not None:
            assert phone.closed == (1000, "client")
    assert phone.warnings == []
    # Whole frames of 80 ms, or as many together as the provider wants.
    size = 3840 if provider == "exotel" else 640
    assert set(phone.sizes) == {size}
    # A pure tone of the same pitch and loudness, whatever the delay.
    power = np.abs(np.fft.rfft(answer[1600 : 1600 + 6400] * np.hanning(6400))) ** 2
    assert abs(int(np.argmax(power)) * RATE / 6400 - 400) < 3
    # A busy machine may lose a frame.
    assert power[300:341].sum() / power.sum() > 0.8
    assert 0.1 < float(np.std(answer[1600:8000])) < 0.25
    await eventually(lambda: echo.quiet)
    ended = f'kaiwa_conversations_ended_total{{protocol="{provider}",reason="client"}}'
    assert echo.metric(ended) == 1


async def test_silence_is_sent_while_the_caller_says_nothing(echo: Live) -> None:
    """The provider plays what it gets; without silence a model would stand still."""
    async with dial(echo.port) as phone:
        await phone.begin()
        await eventually(lambda: len(phone.sizes) > 10, "answers without input")
        assert np.abs(phone.answer).max() < 0.001
        assert echo.metric('kaiwa_frames_total{direction="in",kind="inserted_silence"}') > 0
        await phone.stop()
        await eventually(lambda: phone.closed == (1000, "client"))


async def test_the_queue_of_the_provider_is_emptied_when_it_is_long(echo: Live) -> None:
    async with dial(echo.port) as phone:
        await phone.begin()
        phone.muted = True
        speaking = asyncio.create_task(phone.speak(sine(8)))
        await eventually(lambda: phone.waiting > MARK_EVERY + LIMIT + 2, "a long queue")
        phone.muted = False
        await eventually(lambda: phone.clears == 1, "the queue was emptied")
        await eventually(lambda: len(phone.marks) > 3, "more marks")
        assert phone.clears == 1
        assert phone.waiting <= LIMIT
        speaking.cancel()
    assert phone.warnings == []


async def test_tracks_of_others_keys_and_unknown_events_have_no_effect(echo: Live) -> None:
    async with dial(echo.port) as phone:
        await phone.begin()
        for _ in range(calls.GARBAGE + 50):
            await phone.send({"event": "dtmf", "streamSid": "MZ1", "dtmf": {"digit": "1"}})
            await phone.send({"event": "something", "new": [1, {"a": None}]})
            await phone.send({"event": "start", "start": 5})
            other = {"track": "outbound", "payload": base64.b64encode(b"\0" * 160).decode()}
            await phone.send({"event": "media", "streamSid": "MZ1", "media": other})
        await eventually(lambda: len(phone.sizes) > 5)
        assert phone.closed[0] is None
        assert np.abs(phone.answer).max() < 0.001
        await phone.stop()
        await eventually(lambda: phone.closed == (1000, "client"))


# ---- who may call ------------------------------------------------------------------------------


async def test_a_token_or_a_key_in_the_start_message(key_path: Path, make_key: MakeKey) -> None:
    key = make_key("one", concurrency=1)
    operator = make_key("operator", operator=True)
    with running(keys=str(key_path)) as live:
        token = live.ask("/v1/tokens", "POST", key=key).json["token"]
        for secret in (token, key):
            async with dial(live.port) as phone:
                await phone.begin(token=secret)
                await begun(live)
                (row,) = live.ask("/v1/sessions", key=operator).json["sessions"]
                assert row["key_name"] == "one"
                async with dial(live.port) as second:
                    await second.begin(token=key)
                    await eventually(lambda: second.closed == (1008, "key_concurrency"))
                await phone.stop()
                await eventually(lambda: phone.closed == (1000, "client"))
            await eventually(lambda: live.quiet)
        for wrong in (token, "kt_nothing", "kw_nothing", "é"):
            async with dial(live.port) as phone:
                await phone.begin(token=wrong)
                await eventually(lambda: phone.closed[0] == 1008)
                assert phone.closed[1] in ("bad_token", "unknown_key")
        async with dial(live.port) as phone:
            await phone.begin()
            await eventually(lambda: phone.closed == (1008, "no_key"))


async def test_a_key_in_the_headers_of_the_stream(key_path: Path, make_key: MakeKey) -> None:
    key = make_key("one")
    basic = "Basic " + base64.b64encode(f"any:{key}".encode()).decode()
    with running(keys=str(key_path)) as live:
        for provider, headers in (
            ("exotel", {"Authorization": basic}),
            ("telnyx", {"x-telnyx-streaming-auth-token": key}),
            ("twilio", {"Authorization": f"Bearer {key}"}),
        ):
            async with dial(live.port, provider, headers) as phone:
                await phone.begin()
                await begun(live, provider)
        with pytest.raises(InvalidStatus, match="401"):
            async with dial(live.port, "exotel", {"Authorization": "Basic eDp5"}):
                pass


async def test_a_key_for_one_protocol_is_not_for_another(key_path: Path, make_key: MakeKey) -> None:
    key = make_key("one", protocols=("twilio",))
    with running(keys=str(key_path)) as live:
        async with dial(live.port) as phone:
            await phone.begin(token=key)
            await begun(live)
        async with dial(live.port, "telnyx") as phone:
            await phone.begin(token=key)
            await eventually(lambda: phone.closed == (1008, "not_for_this_key"))
        status, _, _ = await refusal(live.url(), Authorization=f"Bearer {key}")
        assert status == 403


async def test_no_slot_is_held_before_the_start_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "LOGIN_SECONDS", 1.0)
    with running(slots=1, queue=0) as live:
        async with dial(live.port) as silent, dial(live.port) as greeting:
            await greeting.send(PROVIDERS["twilio"].greet[0])
            async with call(live.url(format="pcm")) as other:
                await other.say(bytes(3840))
                await other.frames(1)
            late = (1008, "session_start_timeout")
            await eventually(lambda: silent.closed == greeting.closed == late)
        rejected = 'kaiwa_admission_rejected_total{protocol="twilio",reason="bad_request"}'
        assert live.metric(rejected) == 2


@pytest.mark.parametrize(
    "first",
    [
        "not JSON",
        b"\x01\x02",
        "[1]",
        '{"event": 5}',
        "[" * 50_000,
        json.dumps({"event": "start"}),
        json.dumps(twilio_start({}, encoding="audio/opus")),
        json.dumps({"event": "connected"}) + " " * 200_000,
    ],
    ids=lambda first: str(first[:20]),
)
async def test_what_is_no_start_is_refused(echo: Live, first: str | bytes) -> None:
    async with dial(echo.port) as phone:
        await phone.socket.send(first)
        await eventually(lambda: phone.closed == (1008, "bad_parameter"))


async def test_a_full_server_says_so_at_once() -> None:
    with running(slots=1, queue=0) as live:
        async with call(live.url()):
            status, error, headers = await refusal(f"ws://127.0.0.1:{live.port}/telephony/twilio")
            assert (status, error["code"], headers["retry-after"]) == (503, "full", "5")


# ---- ends --------------------------------------------------------------------------------------


async def test_a_call_ends_with_its_time(key_path: Path, make_key: MakeKey) -> None:
    key = make_key("short", max_seconds=1)
    with running(keys=str(key_path)) as live:
        async with dial(live.port) as phone:
            await phone.begin(token=key)
            await eventually(lambda: phone.closed == (1001, "expired"))
        assert phone.warnings == []


async def test_a_server_that_stops_says_so() -> None:
    with running(drain_seconds=0.2) as live:
        async with dial(live.port) as phone:
            await phone.begin()
            await begun(live)
            live.drain()
            await eventually(lambda: phone.closed == (1001, "drain"))
        assert phone.warnings == []


async def test_a_provider_that_breaks_off_leaves_its_slot(echo: Live) -> None:
    async with dial(echo.port) as phone:
        await phone.begin()
        await begun(echo)
        phone.socket.transport.abort()
    await eventually(lambda: echo.quiet)


async def test_a_provider_that_reads_nothing_is_given_up() -> None:
    with running() as live:
        async with dial(live.port) as phone:
            await phone.begin()
            await begun(live)
            phone.socket.transport.pause_reading()

            def later() -> bool:
                """Lets a second pass on the server's clock; whether the slot is free."""
                live.clock.jump(1.0)
                return live.quiet

            # Pings are sent every two seconds of true time; the rest of the wait is skipped.
            await eventually(later, "the slot is free", seconds=30)
        ended = 'kaiwa_conversations_ended_total{protocol="twilio",reason="slow_consumer"}'
        assert live.metric(ended) == 1


# ---- abuse -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        "not JSON",
        "{}",
        "[" * 50_000,
        b"\0" * 100,
        json.dumps({"event": "media", "media": {"payload": 5}}),
        json.dumps({"event": "media", "media": {"payload": "A"}}),
        json.dumps({"event": "media", "media": {"payload": "é"}}),
        json.dumps({"event": "media", "media": []}),
        json.dumps({"event": "mark", "mark": {"name": {}}}),
        json.dumps({"event": "media", "media": {"payload": "A" * 500_000}}),
    ],
    ids=lambda message: str(message[:45]),
)
async def test_messages_without_a_meaning_end_a_call(
    echo: Live, monkeypatch: pytest.MonkeyPatch, message: str | bytes
) -> None:
    monkeypatch.setattr(calls, "GARBAGE", 5)
    async with dial(echo.port) as phone:
        await phone.begin()
        await begun(echo)
        for _ in range(5):
            await phone.socket.send(message)
        await eventually(lambda: phone.closed == (1003, "garbage"))


async def test_more_events_than_a_call_needs_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "MESSAGES_AHEAD", 500)
    with running() as live:
        async with dial(live.port) as phone, call(live.url(format="pcm")) as other:
            await phone.begin()
            await begun(live)
            flood = json.dumps({"event": "dtmf", "dtmf": {"digit": "1" * 100}})
            with_others = asyncio.create_task(other.find(1))
            with contextlib.suppress(ConnectionClosed):
                for _ in range(20_000):
                    await phone.socket.send(flood)
            await eventually(lambda: phone.closed[1] in ("garbage", "flood"))
            await other.say(bytes(3840))
            await asyncio.wait_for(with_others, 10)


async def test_sound_faster_than_time_ends_a_call() -> None:
    with running() as live:
        async with dial(live.port) as phone:
            await phone.begin()
            await begun(live)
            second = base64.b64encode(bytes(8000)).decode()
            with contextlib.suppress(ConnectionClosed):
                for _ in range(100):
                    await phone.send({"event": "media", "media": {"payload": second}})
            await eventually(lambda: phone.closed == (1008, "input_too_fast"))


# ---- what Twilio asks --------------------------------------------------------------------------

FORM = {"CallSid": "CA1", "From": "+14155550100", "To": "+14155550111", "Digits": ""}


def ask_voice(at: At, body: bytes | None = None, **headers: str) -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection("127.0.0.1", at.port, timeout=10)
    try:
        headers = {"Content-Type": "application/x-www-form-urlencoded", **headers}
        form = urlencode(FORM).encode() if body is None else body
        connection.request("POST", "/telephony/twilio/voice", form, headers)
        got = connection.getresponse()
        named = {name.lower(): value for name, value in got.getheaders()}
        return got.status, named, got.read().decode()
    finally:
        connection.close()


def basic_of(key: str) -> str:
    return "Basic " + base64.b64encode(f"twilio:{key}".encode()).decode()


def stream_of(twiml: str) -> tuple[str, dict[str, str]]:
    """Address and parameters of the stream that the answer asks for."""
    (verb,) = ET.fromstring(twiml)
    (stream,) = verb
    assert (verb.tag, stream.tag) == ("Connect", "Stream")
    return stream.attrib["url"], {p.attrib["name"]: p.attrib["value"] for p in stream}


async def test_a_phone_call_from_ringing_to_hanging_up(
    key_path: Path, make_key: MakeKey, tmp_path: Path
) -> None:
    """What Twilio does: asks for the way without a key, then with it; opens the stream that the
    answer names, signs both."""
    validator = RequestValidator(AUTH_TOKEN)
    file = tmp_path / "auth-token"
    file.write_text(AUTH_TOKEN)
    key = make_key("phone")
    with running(keys=str(key_path), twilio_auth_token_file=str(file)) as live:
        asked = f"https://twilio:{key}@127.0.0.1:{live.port}/telephony/twilio/voice"
        signed = validator.compute_signature(asked.replace(f"twilio:{key}@", ""), FORM)
        status, headers, _ = ask_voice(live, **{"X-Twilio-Signature": signed})
        assert status == 401
        assert headers["www-authenticate"].startswith("Basic realm=")
        status, headers, twiml = ask_voice(
            live, **{"X-Twilio-Signature": signed, "Authorization": basic_of(key)}
        )
        assert (status, headers["content-type"]) == (200, "application/xml")
        address, parameters = stream_of(twiml)
        assert address == f"ws://127.0.0.1:{live.port}/telephony/twilio"
        assert parameters["token"].startswith("kt_")
        signature = validator.compute_signature(address.replace("ws:", "wss:"), {})
        async with dial(live.port, headers={"x-twilio-signature": signature}) as phone:
            await phone.begin(**parameters)
            await begun(live)
            await phone.speak(sine(0.4))
            await phone.stop()
            await eventually(lambda: phone.closed == (1000, "client"))
        # The token counts once.
        async with dial(live.port, headers={"x-twilio-signature": signature}) as phone:
            await phone.begin(**parameters)
            await eventually(lambda: phone.closed == (1008, "bad_token"))
        # Signed with the password in the address, which Twilio may do as well.
        with_password = validator.compute_signature(asked, FORM)
        status, _, _ = ask_voice(
            live, **{"X-Twilio-Signature": with_password, "Authorization": basic_of(key)}
        )
        assert status == 200


@pytest.mark.parametrize("wrong", ["", "missing", "another"])
async def test_what_the_account_did_not_sign_is_refused(tmp_path: Path, wrong: str) -> None:
    file = tmp_path / "auth-token"
    file.write_text(AUTH_TOKEN)
    headers = {} if wrong == "missing" else {"X-Twilio-Signature": wrong}
    with running(twilio_auth_token_file=str(file)) as live:
        status, _, body = ask_voice(live, None, **headers)
        assert (status, json.loads(body)["error"]["code"]) == (403, "signature")
        url = f"ws://127.0.0.1:{live.port}/telephony/twilio"
        status, error, _ = await refusal(url, **headers)
        assert (status, error["code"]) == (403, "signature")


def test_a_server_without_keys_answers_without_a_token(echo: Live) -> None:
    status, _, twiml = ask_voice(echo)
    assert status == 200
    assert stream_of(twiml) == (f"ws://127.0.0.1:{echo.port}/telephony/twilio", {})
    assert AUTH_TOKEN not in twiml


def test_beyond_this_machine_the_stream_is_by_tls(key_path: Path, make_key: MakeKey) -> None:
    key = make_key("one")
    with running(keys=str(key_path)) as live:
        host = 'kaiwa.example"&<'
        _, _, twiml = ask_voice(live, Host="kaiwa.example", Authorization=basic_of(key))
        assert stream_of(twiml)[0] == "wss://kaiwa.example/telephony/twilio"
        status, _, twiml = ask_voice(live, Host=host, Authorization=basic_of(key))
        assert status == 400 or stream_of(twiml)[0] == f"wss://{host}/telephony/twilio"


async def test_a_full_server_is_a_busy_line() -> None:
    with running(slots=1, queue=0) as live:
        async with call(live.url()):
            status, _, twiml = ask_voice(live)
            assert status == 200
            assert re.search(r'<Response><Reject reason="busy"\s*/></Response>', twiml)


@pytest.mark.parametrize(
    "body", [b"\xff\xff", b"a=%ff", b"x=1&" * 2000, b"a" * 100_000], ids=lambda b: str(b[:9])
)
def test_what_is_no_form_is_refused(echo: Live, body: bytes) -> None:
    status, _, answer = ask_voice(echo, body)
    refused = (status, json.loads(answer)["error"]["code"])
    # What is longer than any body may be is refused by the route or before it, whichever counts the
    # last of these bytes first.
    too_long = [(413, "too_large")] if len(body) > MAX_BODY else []
    assert refused in [(400, "bad_parameter"), *too_long]


def test_the_answer_is_twilios_own_language(echo: Live) -> None:
    module: Any = pytest.importorskip("twilio.twiml.voice_response")
    response, verb = module.VoiceResponse(), module.Connect()
    stream = verb.stream(url="wss://h/p?a=1&b=2")
    stream.parameter(name="token", value="kt_<1>")
    response.append(verb)
    ours = f"<Response>{connect('wss://h/p?a=1&b=2', 'kt_<1>')}</Response>"
    assert ET.canonicalize(ours) == ET.canonicalize(str(response))


async def test_packets_of_any_length_are_taken(echo: Live) -> None:
    async with dial(echo.port) as phone:
        await phone.begin()
        sound = sine(1.0)
        for size in (1, 7, PACKET, 999):
            await send_in_pieces(phone, sound[:2000], size)
        await eventually(lambda: float(np.abs(phone.answer).max(initial=0)) > 0.2)
        await phone.stop()
        await eventually(lambda: phone.closed == (1000, "client"))


async def send_in_pieces(phone: Phone, sound: Any, size: int) -> None:
    for at in range(0, len(sound), size):
        payload = base64.b64encode(g711.encode(sound[at : at + size], "mulaw")).decode()
        await phone.send(phone.words.media(at, payload))
