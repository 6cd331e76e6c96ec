"""Kyutai's streaming speech to text on the wire: words, pauses, markers, many at once, garbage."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import websockets
from numpy.typing import NDArray
from tests.server.conftest import MakeKey
from tests.server.live import Live, eventually, running

import kaiwa
from kaiwa import OggOpusWriter, SpeechToText
from kaiwa.words import Word, WordList, Words

MODEL = Path(__file__).parents[1] / "data" / "stt_small"
PATH = "/api/asr-streaming"
FRAME = 1920
#: Steps from a sound to its text.
DELAY = 6


def settings(**more: Any) -> dict[str, Any]:
    """A server with the small model, exactly as the reference computes it."""
    return {"model": str(MODEL), "dtype": "float32", "device": "cpu", **more}


@pytest.fixture(scope="module")
def asr() -> Iterator[Live]:
    with running(**settings(slots=4, step_budget_ms=10_000)) as live:
        yield live


@pytest.fixture(scope="module")
def model() -> SpeechToText:
    return SpeechToText.from_pretrained(MODEL, device="cpu", dtype="float32")


def noise(seed: int, seconds: float = 6.0) -> NDArray[np.float32]:
    """Whole frames of steps of 5 ms: a random model hears words in them."""
    rng = np.random.default_rng(seed)
    steps = rng.uniform(-2, 2, round(seconds * 12.5) * 16)
    return np.repeat(steps, 120).astype(np.float32)


class Client:
    """A client of the protocol, as Kyutai's scripts are."""

    def __init__(self, socket: Any) -> None:
        self.socket = socket
        self.seen: list[dict[str, Any]] = []

    async def say(self, kind: str, **members: Any) -> None:
        await self.socket.send(msgpack.packb({"type": kind, **members}, use_single_float=True))

    async def hear(self, pcm: NDArray[np.float32], each: int = FRAME) -> None:
        for start in range(0, len(pcm), each):
            await self.say("Audio", pcm=pcm[start : start + each].tolist())

    async def find(self, kind: str) -> dict[str, Any]:
        while True:
            message = msgpack.unpackb(await asyncio.wait_for(self.socket.recv(), 30))
            self.seen.append(message)
            if message["type"] == kind:
                return dict(message)

    async def rest(self) -> tuple[int, str]:
        """Everything until the end, and how it ended."""
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await self.find("nothing")
        assert closed.value.rcvd is not None
        return closed.value.rcvd.code, closed.value.rcvd.reason

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.seen if message["type"] == kind]

    @property
    def words(self) -> list[Word]:
        found = WordList()
        for message in self.seen:
            if message["type"] == "Word":
                found.add(kaiwa.WordEvent(message["text"], message["start_time"]))
            elif message["type"] == "EndWord":
                found.add(kaiwa.WordEndEvent(message["stop_time"]))
        return found.words


@asynccontextmanager
async def client(live: Live, query: str = "", **headers: str) -> AsyncIterator[Client]:
    url = f"ws://127.0.0.1:{live.port}{PATH}{query}"
    async with websockets.connect(url, additional_headers=headers, max_size=None) as socket:
        yield Client(socket)


def expected(model: SpeechToText, pcm: NDArray[np.float32]) -> tuple[list[Word], list[list[float]]]:
    """Words and pauses of whole frames, by the model itself."""
    assert model.mimi is not None
    assert model.tokenizer is not None
    codec, stream = model.mimi.stream(), model.stream()
    words, found, pauses = Words(model.tokenizer, 0.5, steps=1), WordList(), []
    for start in range(0, len(pcm), FRAME):
        codes = codec.encode(pcm[None, None, start : start + FRAME])[:, :, 0]
        if start == 0:
            stream.step(codes)
        out = stream.step(codes)
        pauses.append(out.heads[0].tolist())
        for event in words.push(int(out.text[0])):
            found.add(event)
    return found.words, pauses


async def transcribed(live: Live, pcm: NDArray[np.float32]) -> Client:
    """Audio as fast as it is taken, then a marker and silence until it comes back."""
    async with client(live) as one:
        await one.find("Ready")
        reading = asyncio.create_task(one.find("Marker"))
        await one.hear(pcm)
        await one.say("Marker", id=-5)
        await one.hear(np.zeros(DELAY * FRAME, np.float32))
        assert (await reading)["id"] == -5
    return one


async def test_words_pauses_and_the_marker_are_those_of_the_model(
    asr: Live, model: SpeechToText
) -> None:
    pcm = noise(1)
    one = await transcribed(asr, pcm)
    assert one.seen[0] == {"type": "Ready"}
    assert [list(m) for m in one.of("Step")[:1]] == [["type", "step_idx", "prs", "buffered_pcm"]]
    padded = np.concatenate([pcm, np.zeros(DELAY * FRAME, np.float32)])
    words, pauses = expected(model, padded)
    assert len(words) > 3
    steps = one.of("Step")
    # The marker comes with the step that its audio's text comes with: the last one.
    assert [step["step_idx"] for step in steps] == list(range(1, len(padded) // FRAME + 1))
    np.testing.assert_allclose([step["prs"] for step in steps], pauses, atol=1e-5)
    assert all(step["buffered_pcm"] % FRAME == 0 for step in steps)
    assert one.words == words
    await eventually(lambda: asr.quiet)


async def test_many_at_once_are_each_as_if_alone(asr: Live, model: SpeechToText) -> None:
    sounds = [noise(seed, 3 + seed % 3) for seed in range(2, 6)]
    clients = await asyncio.gather(*(transcribed(asr, pcm) for pcm in sounds))
    for pcm, one in zip(sounds, clients, strict=True):
        words, pauses = expected(model, np.concatenate([pcm, np.zeros(DELAY * FRAME, np.float32)]))
        assert one.words == words
        np.testing.assert_allclose([s["prs"] for s in one.of("Step")], pauses, atol=1e-5)
    assert asr.metric('kaiwa_conversations_started_total{protocol="asr"}') >= 4
    await eventually(lambda: asr.quiet)


async def test_audio_in_any_cut_and_before_the_slot(asr: Live, model: SpeechToText) -> None:
    pcm = noise(9, 2)
    wanted = expected(model, np.concatenate([pcm, np.zeros(DELAY * FRAME, np.float32)]))[1]
    async with client(asr) as one:
        # Without waiting for Ready, a second at once, in doubles and as integers of zero.
        await one.say("Init")
        await one.socket.send(msgpack.packb({"type": "Audio", "pcm": pcm[:24_000].tolist()}))
        await one.hear(pcm[24_000:], each=777)
        await one.say("Audio", pcm=[0] * (DELAY * FRAME))
        await one.say("Audio", pcm=[])
        await one.say("Marker", id=2**40)
        await one.hear(np.zeros(DELAY * FRAME, np.float32))
        assert (await one.find("Marker"))["id"] == 2**40
    steps = one.of("Step")
    np.testing.assert_allclose([s["prs"] for s in steps[: len(wanted)]], wanted, atol=1e-5)


async def test_opus_as_kyutais_clients_send_it(asr: Live) -> None:
    writer = OggOpusWriter()
    pcm = noise(3, 2)
    async with client(asr) as one:
        pages = [writer.write(pcm[start : start + FRAME]) for start in range(0, len(pcm), FRAME)]
        await one.say("OggOpus", data=list(pages[0]))
        for page in pages[1:]:
            await one.say("OggOpus", data=page)
        await one.say("Marker", id=1)
        await one.say("Audio", pcm=[0.0] * (10 * FRAME))
        await one.find("Marker")
    assert len(one.of("Step")) >= len(pages) + DELAY - 1


async def test_a_marker_comes_at_once_where_all_is_done_and_many_in_order(asr: Live) -> None:
    async with client(asr) as one:
        await one.find("Ready")
        await one.say("Marker", id=1)
        await one.hear(np.zeros(DELAY * FRAME, np.float32))
        await one.find("Marker")
        assert len(one.of("Step")) == DELAY
        for number in range(2, 6):
            await one.hear(np.zeros(FRAME, np.float32))
            await one.say("Marker", id=number)
        await one.hear(np.zeros(DELAY * FRAME, np.float32))
        for number in range(2, 6):
            assert (await one.find("Marker"))["id"] == number
        # The steps before each marker are exactly those that its audio and the delay need.
        positions = [n for n, m in enumerate(one.seen) if m["type"] == "Marker"]
        before = [sum(m["type"] == "Step" for m in one.seen[:n]) for n in positions]
        assert before == [DELAY, *(DELAY + n + DELAY for n in range(1, 5))]


async def test_what_means_nothing_is_counted_and_hurts_nobody(asr: Live) -> None:
    bad: list[bytes] = [
        b"",
        b"\xc1",
        b"\xff" * 50,
        msgpack.packb([1, 2]),
        msgpack.packb({"kind": "Audio"}),
        msgpack.packb({"type": 7}),
        msgpack.packb({"type": "Audio"}),
        msgpack.packb({"type": "Audio", "pcm": "loud"}),
        msgpack.packb({"type": "Audio", "pcm": [0.1, "x"]}),
        msgpack.packb({"type": "Audio", "pcm": [[0.1]]}),
        msgpack.packb({"type": "Audio", "pcm": [float("nan")]}),
        msgpack.packb({"type": "Audio", "pcm": [1e300]}),
        msgpack.packb({"type": "OggOpus", "data": [300]}),
        msgpack.packb({"type": "OggOpus", "data": 5}),
        msgpack.packb({"type": "Marker", "id": "x"}),
        msgpack.packb({"type": "Marker"}),
        msgpack.packb({"type": "Word", "text": "hello"}),
        b"\x91" * 5000,
    ]
    async with client(asr) as neighbour, client(asr) as one:
        await neighbour.find("Ready")
        await one.find("Ready")
        await one.socket.send("text is ignored")
        for message in bad:
            await one.socket.send(message)
        await one.hear(np.zeros(FRAME, np.float32))
        await one.find("Step")
        for _ in range(6):
            for message in bad:
                await one.socket.send(message)
        code, reason = await one.rest()
        assert (code, reason) == (1003, "garbage")
        assert "mean nothing" in one.of("Error")[0]["message"]
        await neighbour.hear(np.zeros(FRAME, np.float32))
        await neighbour.find("Step")


async def test_a_full_server_says_so_in_its_first_message() -> None:
    with running(**settings(slots=1, queue=0)) as live:
        async with client(live) as first:
            await first.find("Ready")
            async with client(live) as second:
                assert "taken" in (await second.find("Error"))["message"]
                assert second.seen[0]["type"] == "Error"
                assert (await second.rest())[1] == "full"
            await first.hear(np.zeros(FRAME, np.float32))
            await first.find("Step")


async def test_keys_by_header_and_tokens_in_the_address(key_path: Path, make_key: MakeKey) -> None:
    key = make_key("someone", concurrency=1)
    elsewhere = make_key("other", protocols=("kyutai",))
    operator = make_key("operator", operator=True)
    with running(**settings(keys=str(key_path))) as live:
        async with client(live, **{"kyutai-api-key": key}) as one:
            await one.find("Ready")
            (row,) = live.ask("/v1/sessions", key=operator).json["sessions"]
            assert (row["protocol"], row["key_name"]) == ("asr", "someone")
            async with client(live, **{"kyutai-api-key": key}) as two:
                assert "conversation" in (await two.find("Error"))["message"]
        await eventually(lambda: live.quiet)
        token = live.ask("/v1/tokens", "POST", key=key).json["token"]
        async with client(live, f"?auth_id={token}") as one:
            await one.find("Ready")
        for headers in ({}, {"kyutai-api-key": "public_token"}, {"kyutai-api-key": elsewhere}):
            with pytest.raises(websockets.InvalidStatus) as refused:
                async with client(live, **headers):
                    pass
            assert refused.value.response.status_code in (401, 403)


async def test_a_model_of_the_other_kind_is_named(asr: Live, echo: Live) -> None:
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with client(echo):
            pass
    assert refused.value.response.status_code == 404
    assert b"wrong_model" in (refused.value.response.body or b"")
    for path in ("/api/chat", "/v1/live/sessions", "/v1/realtime"):
        with pytest.raises(websockets.InvalidStatus) as refused:
            async with websockets.connect(f"ws://127.0.0.1:{asr.port}{path}"):
                pass
        assert refused.value.response.status_code == 404
        body = (refused.value.response.body or b"").decode()
        assert "wrong_model" in body
        assert PATH in body
    assert asr.ask("/api/modules_info").json[0]["type"] == "batched_asr"
    assert asr.ask("/api/modules_info").json[0]["path"] == PATH


async def test_a_client_that_goes_leaves_its_slot(asr: Live) -> None:
    for _ in range(8):
        async with client(asr) as one:
            await one.find("Ready")
            await one.hear(noise(1, 1))
            one.socket.transport.abort()
    await eventually(lambda: asr.quiet)
    assert asr.engine.readiness.slots_used == 0
