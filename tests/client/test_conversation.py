"""Recorded audio against a server that does as it is told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.client.server import serving

from kaiwa.client import connect, conversation
from kaiwa.client.conversation import Conversation
from kaiwa.errors import ServerError
from kaiwa.synth import voice

SPEECH = voice(0.5)  # 6.25 frames


def pieces(pcm: NDArray[np.float32] = SPEECH) -> Iterator[NDArray[np.float32]]:
    for start in range(0, len(pcm), 1920):
        yield pcm[start : start + 1920]


class Heard:
    """What a conversation gives."""

    def __init__(self) -> None:
        self.parts: list[NDArray[np.float32]] = []
        self.text: list[tuple[float, str]] = []

    @property
    def pcm(self) -> NDArray[np.float32]:
        return np.concatenate(self.parts)

    def arguments(self) -> dict[str, Any]:
        return {
            "on_audio": self.parts.append,
            "on_text": lambda t, text: self.text.append((round(t, 2), text)),
        }


async def talk(
    heard: Heard, script: dict[str, Any], *, audio_format: Any = "pcm", **options: Any
) -> Conversation:
    """A whole conversation."""
    async with (
        serving(**script) as server,
        connect(server.url, format=audio_format) as chat,
    ):
        conversing = Conversation(chat, **heard.arguments(), **options)
        await conversing.run(pieces())
        return conversing


@pytest.mark.parametrize("pace", ["realtime", "none"])
async def test_the_answer_has_length_and_clock_of_the_input(pace: Any) -> None:
    heard = Heard()
    done = await talk(heard, {"say": {0: " Oh", 6: " end"}}, pace=pace)
    np.testing.assert_allclose(heard.pcm, SPEECH, atol=1e-4)
    assert heard.text == [(0.0, " Oh"), (0.48, " end")]
    assert (done.frames, done.samples, done.missing) == (7, 12_000, 0)
    assert (done.schedule is None) == (pace == "none")


async def test_opus() -> None:
    heard = Heard()
    done = await talk(heard, {}, audio_format="opus", pace="none")
    assert len(heard.pcm) == 12_000
    assert done.missing == 0
    assert np.abs(heard.pcm).max() > 0.1


@pytest.mark.parametrize("pace", ["realtime", "none"])
async def test_what_the_model_holds_back_is_fetched_with_silence(pace: Any) -> None:
    heard = Heard()
    done = await talk(heard, {"hold": 2, "say": {7: " x", 8: " last", 9: " behind"}}, pace=pace)
    assert done.missing == 0
    assert 2 <= done.trailing <= conversation.TRAILING[pace]
    assert len(heard.pcm) == 12_000
    np.testing.assert_allclose(heard.pcm[: 4 * 1920], SPEECH[2 * 1920 : 6 * 1920], atol=1e-4)
    assert heard.text == [(0.4, " x"), (0.48, " last")]


async def test_frames_that_never_come_leave_silence_at_the_end() -> None:
    heard = Heard()
    script = {"drop": frozenset({1, *range(4, 100)})}
    done = await talk(heard, script, pace="none", answer_seconds=0.1)
    assert (done.missing, done.trailing) == (4, 4)
    assert len(heard.pcm) == 12_000
    assert not heard.pcm[3 * 1920 :].any()
    assert done.timeline.missing() == 8


async def test_a_server_that_answers_too_much() -> None:
    heard = Heard()
    extra = b"\x01" + np.full(1920, 1000, "<i2").tobytes()
    await talk(heard, {"after": (extra,) * 12}, pace="none")
    assert len(heard.pcm) == 12_000


async def test_latency_is_that_of_the_answers() -> None:
    heard = Heard()
    done = await talk(heard, {"delay": 0.05})
    latencies = done.timeline.latencies()[: done.frames]
    assert len(latencies) == 7
    assert all(0.045 < value < 2 for value in latencies)
    assert done.first_audio is not None


async def test_a_normal_end_in_the_middle() -> None:
    heard = Heard()
    done = await talk(heard, {"end": 3, "close": (1000, "expired")}, pace="none")
    assert (done.frames, done.missing) == (7, 4)
    assert len(heard.pcm) == 12_000


async def test_an_error_in_the_middle() -> None:
    script = {"end": 3, "close": (1013, "overloaded"), "error": "Too much load."}
    with pytest.raises(ServerError, match="Too much load") as caught:
        await talk(Heard(), script)
    assert caught.value.code == "overloaded"


async def test_a_server_that_stalls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "STALL", 0.1)

    async with serving() as server, connect(server.url, format="pcm") as chat:

        async def never(pcm: NDArray[np.float32]) -> bool:
            import asyncio

            await asyncio.Event().wait()
            return True

        monkeypatch.setattr(chat, "send_pcm", never)
        with pytest.raises(ServerError, match="neither taken nor given"):
            await Conversation(chat, pace="none", answer_seconds=0.1).run(pieces())


async def test_input_that_fails() -> None:
    def broken() -> Iterator[NDArray[np.float32]]:
        yield SPEECH[:1920]
        raise OSError("disk")

    async with serving() as server, connect(server.url, format="pcm") as chat:
        with pytest.raises(OSError, match="disk"):
            await Conversation(chat, pace="none").run(broken())
