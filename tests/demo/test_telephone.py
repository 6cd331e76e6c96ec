"""Digits by phone: 8 kHz and 8 bits a sample, there and back, against the direct way."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from tests.demo.call import Asked
from tests.demo.conftest import Scenes
from tests.server.live import eventually, program
from tests.server.phone import dial
from training.listener import Listener

import kaiwa
from kaiwa.server.protocols.telephony.line import Line
from kaiwa.server.protocols.telephony.provider import Encoding
from training import calls

Array = NDArray[np.float32]


def by_phone(audio: Array) -> Array:
    """What is left of audio at 24 kHz, of the same length."""
    out, back = Line(Encoding.MULAW, 8000), Line(Encoding.MULAW, 8000)
    frames = np.split(audio, len(audio) // 1920)
    heard = np.concatenate([back.hear(out.say(frame)) for frame in frames])
    return np.concatenate([heard, np.zeros(len(audio), np.float32)])[: len(audio)]


def test_digits_are_understood_as_well_as_on_the_direct_way(
    scenes: Scenes, listener: Listener
) -> None:
    made = scenes("digits", 16)
    direct = calls.score(made, calls.converse("demo", made, 1), listener)
    phoned = [replace(scene, audio=by_phone(scene.audio)) for scene in made]
    answers = calls.converse("demo", phoned, 1)
    heard = replace(answers, audio=[by_phone(audio) for audio in answers.audio])
    there, back = (calls.score(made, x, listener) for x in (answers, heard))
    print({"direct": direct, "caller by phone": there, "both ways by phone": back})
    assert there["text right"] >= direct["text right"] - 0.06
    assert there["audio right"] >= direct["audio right"] - 0.06
    assert there["no answer"] == 0
    # The reader of the words was made for 16 kHz, and misreads some at 8 kHz.
    assert back["audio right"] >= 0.6


async def test_a_call_by_phone(asked: Asked, listener: Listener) -> None:
    """All of it: a provider, a server, the demo model, at the pace of time. A machine with too much
    to do loses frames of a call, so that there are three."""
    down = kaiwa.Resampler(24_000, 8_000)
    caller = np.concatenate([down.process(asked.audio), down.finish()])
    heard: list[list[str]] = []
    with program("--seed", 1) as server:
        while asked.words not in heard and len(heard) < 3:
            heard.append(listener.words(await answer(server.port, caller, asked.end)))
    assert asked.words in heard, heard


async def answer(port: int, caller: Array, end: float) -> Array:
    """What the caller (at 8 kHz) hears after they have ended, in seconds, at 24 kHz."""
    up = kaiwa.Resampler(8_000, 24_000)
    async with dial(port) as phone:
        await phone.begin()
        speaking = asyncio.create_task(phone.speak(caller))
        await eventually(lambda: len(phone.answer) >= len(caller), "the answer", seconds=60)
        await speaking
        said = np.concatenate([up.process(phone.answer), up.finish()])
        await phone.stop()
        await eventually(lambda: phone.closed == (1000, "client"))
    assert phone.warnings == []
    return said[int(end * 24_000) :]
