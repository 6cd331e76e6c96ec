"""OpenAI's transcriptions of files: every form of answer, OpenAI's own package, bad input."""

from __future__ import annotations

import asyncio
import io
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import soundfile
from numpy.typing import NDArray
from tests.server.conftest import MakeKey
from tests.server.live import Live, eventually, running
from tests.server.test_asr import noise, settings

from kaiwa import SpeechToText, transcript
from kaiwa.words import Word

MODEL = Path(__file__).parents[1] / "data" / "stt_small"
PATH = "/v1/audio/transcriptions"


@pytest.fixture(scope="module")
def asr() -> Iterator[Live]:
    with running(**settings(slots=3, step_budget_ms=10_000)) as live:
        yield live


@pytest.fixture(scope="module")
def model() -> SpeechToText:
    return SpeechToText.from_pretrained(MODEL, device="cpu", dtype="float32")


def wav(pcm: NDArray[np.float32], rate: int = 24_000, **form: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, pcm, rate, **{"format": "WAV", "subtype": "FLOAT", **form})
    return file.getvalue()


async def post(
    live: Live, data: bytes | None, /, headers: dict[str, str] | None = None, **fields: Any
) -> httpx.Response:
    files = {} if data is None else {"file": ("sound.wav", data)}
    async with httpx.AsyncClient(timeout=60) as client:
        return await client.post(
            f"http://127.0.0.1:{live.port}{PATH}", files=files, data=fields, headers=headers
        )


async def test_every_form_of_answer(asr: Live, model: SpeechToText) -> None:
    pcm = noise(11, 8)
    words = model.transcribe(pcm)
    assert len(words) > 3
    data = wav(pcm)
    plain = await post(asr, data)
    assert plain.status_code == 200
    assert plain.json()["text"] == transcript.text(words)
    assert plain.json()["usage"] == {"type": "duration", "seconds": 8}
    for form, kind in (
        ("text", "text/plain"),
        ("srt", "application/x-subrip"),
        ("vtt", "text/vtt"),
    ):
        answer = await post(asr, data, response_format=form)
        assert answer.headers["content-type"] == f"{kind}; charset=utf-8"
        assert answer.text == transcript.write(words, form)
    asked: dict[str, Any] = {
        "response_format": "verbose_json",
        "language": "en",
        "timestamp_granularities[]": ["word", "segment"],
    }
    verbose = await post(asr, data, **asked)
    told = verbose.json()
    assert (told["duration"], told["language"], told["task"]) == (8.0, "en", "transcribe")
    assert [word["word"] for word in told["words"]] == [word.text for word in words]
    assert [word["start"] for word in told["words"]] == [word.start for word in words]
    assert " ".join(one["text"] for one in told["segments"]) == told["text"]
    assert "words" not in (await post(asr, data, response_format="verbose_json")).json()
    await eventually(lambda: asr.quiet)
    assert asr.metric(
        'kaiwa_conversations_ended_total{protocol="transcriptions",reason="finished"}'
    )


async def test_openais_own_package(asr: Live, model: SpeechToText) -> None:
    pcm = noise(12, 5)
    words = model.transcribe(pcm)
    client = openai.AsyncOpenAI(api_key="none", base_url=f"http://127.0.0.1:{asr.port}/v1")
    async with client:
        file = ("sound.wav", wav(pcm))
        plain = await client.audio.transcriptions.create(file=file, model="whisper-1")
        assert plain.text == transcript.text(words)
        verbose = await client.audio.transcriptions.create(
            file=file,
            model="gpt-4o-transcribe",
            response_format="verbose_json",
            timestamp_granularities=["word"],
        )
        assert verbose.words is not None
        assert [word.word for word in verbose.words] == [word.text for word in words]
        stream = await client.audio.transcriptions.create(
            file=file, model="gpt-4o-transcribe", stream=True
        )
        events = [event async for event in stream]
        deltas = [e.delta for e in events if e.type == "transcript.text.delta"]
        assert len(deltas) == len(words)
        assert "".join(deltas) == transcript.text(words)
        assert events[-1].type == "transcript.text.done"
        assert events[-1].text == transcript.text(words)
        with pytest.raises(openai.NotFoundError) as refused:
            await client.audio.transcriptions.create(file=file, model="other")
        assert refused.value.code == "model_not_found"


async def test_many_files_share_the_batch_and_wait_for_slots(
    asr: Live, model: SpeechToText
) -> None:
    sounds = [noise(seed, 3 + seed % 4) for seed in range(20, 27)]
    answers = await asyncio.gather(*(post(asr, wav(pcm)) for pcm in sounds))
    for pcm, answer in zip(sounds, answers, strict=True):
        assert answer.json()["text"] == transcript.text(model.transcribe(pcm))
    steps = asr.engine.stats().batch
    assert sum(steps.counts[1:]) > 0, "no step had several rows"


async def test_a_long_file_in_another_rate_and_kind(asr: Live) -> None:
    """More bytes than the buffers on the way hold."""
    rng = np.random.default_rng(5)
    pcm = (rng.standard_normal((48_000 * 12, 2)) * 0.1).astype(np.float32)
    data = wav(pcm, 48_000, subtype="PCM_24")
    assert len(data) > 3_000_000
    answer = await post(asr, data, response_format="verbose_json")
    assert answer.status_code == 200
    assert answer.json()["duration"] == pytest.approx(12.0, abs=0.001)
    flac = io.BytesIO()
    soundfile.write(flac, pcm[:16_000, 0], 16_000, format="FLAC")
    assert (await post(asr, flac.getvalue())).status_code == 200


@pytest.mark.parametrize(
    ("data", "fields", "status", "said"),
    [
        (b"not audio at all", {}, 400, "cannot be read as audio"),
        (b"", {}, 400, "empty"),
        (None, {"model": "x"}, 400, "multipart"),
        (wav(np.zeros(0, np.float32)), {}, 400, "no audio"),
        (wav(np.full(4000, np.nan, np.float32)), {}, 400, "not finite"),
        (wav(noise(1, 1))[:9000], {}, 400, "cut off"),
        (wav(noise(1, 1)), {"response_format": "docx"}, 400, "response_format"),
        (wav(noise(1, 1)), {"timestamp_granularities[]": "line"}, 400, "granularities"),
        (wav(noise(1, 1)), {"stream": "perhaps"}, 400, "stream"),
        (wav(noise(1, 1)), {"stream": "true", "response_format": "srt"}, 400, "stream"),
        (wav(noise(1, 1)), {"temperature": "warm"}, 400, "temperature"),
        (wav(noise(1, 1)), {"model": "llama"}, 404, "llama"),
        (wav(noise(1, 1)), {f"f{n}": "x" for n in range(40)}, 400, "form"),
        (wav(noise(1, 1)), {"prompt": "x" * 70_000}, 400, "form"),
    ],
)
async def test_bad_requests_are_told_what_is_wrong(
    asr: Live, data: bytes | None, fields: dict[str, Any], status: int, said: str
) -> None:
    answer = await post(asr, data, **fields)
    assert (answer.status_code, said in answer.json()["error"]["message"]) == (status, True)
    # Nothing of where files lie here.
    assert "/" not in answer.json()["error"]["message"].replace("multipart/form-data", "").replace(
        "[]", ""
    )
    await eventually(lambda: asr.quiet)


async def test_bodies_that_are_too_long_or_no_form(asr: Live) -> None:
    answer = await post(asr, bytes(26 << 20))
    assert answer.status_code == 413
    async with httpx.AsyncClient(timeout=30) as client:
        url = f"http://127.0.0.1:{asr.port}{PATH}"
        for content, kind in ((b"{}", "application/json"), (b"xx", "multipart/form-data")):
            answer = await client.post(url, content=content, headers={"Content-Type": kind})
            assert answer.status_code == 400, kind
        # Elsewhere bodies stay short.
        secrets = f"http://127.0.0.1:{asr.port}/v1/realtime/client_secrets"
        assert (await client.post(secrets, content=bytes(100_000))).status_code == 413
        assert (await client.get(url)).status_code == 405


async def test_keys_limits_and_models(key_path: Path, make_key: MakeKey, echo: Live) -> None:
    key = make_key("someone", per_minute=2)
    other = make_key("other", protocols=("asr",))
    data = wav(noise(1, 1))
    with running(**settings(keys=str(key_path))) as live:
        assert (await post(live, data)).status_code == 401
        bad = await post(live, data, headers={"Authorization": f"Bearer {other}"})
        assert bad.status_code == 403
        headers = {"Authorization": f"Bearer {key}"}
        statuses = [(await post(live, data, headers=headers)).status_code for _ in range(3)]
        assert statuses == [200, 200, 429]
        foreign = await post(live, data, headers={**headers, "Origin": "https://evil.example"})
        assert foreign.status_code == 403
    wrong = await post(echo, data)
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (404, "wrong_model")


async def test_a_full_server_refuses_and_a_caller_who_goes_frees_the_slot() -> None:
    with running(**settings(slots=1, queue=0)) as live:
        body = wav(noise(3, 120))
        head = (
            f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; "
            "boundary=x\r\n"
        )
        part = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
        whole = part + body + b"\r\n--x--\r\n"
        with socket.create_connection(("127.0.0.1", live.port)) as line:
            line.sendall(f"{head}Content-Length: {len(whole)}\r\n\r\n".encode() + whole)
            await eventually(lambda: live.engine.readiness.slots_used == 1)
            refused = await post(live, wav(noise(1, 1)))
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "full")
        await eventually(lambda: live.quiet and live.engine.readiness.slots_used == 0)
        assert (await post(live, wav(noise(1, 1)))).status_code == 200


def test_the_first_words_of_a_transcript() -> None:
    """Words without an end get one that is before the next begins."""
    words = [Word("a", 0.0, None), Word("b", 0.2, None), Word("c", 5.0, 5.2)]
    assert transcript.stops(words) == [0.2, pytest.approx(0.6), 5.2]
    assert json.loads(transcript.to_json(words))["words"][0]["stop"] is None
