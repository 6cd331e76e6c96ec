"""The same audio with the same seed: in a loop of one's own, in the engine, and in company."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

import kaiwa
from kaiwa import cli

Audio = NDArray[np.float32]
FRAMES = 30


def speech(number: int) -> Audio:
    """What caller `number` says: noise of its own."""
    rng = np.random.default_rng(number)
    return (rng.standard_normal(FRAMES * 1920) * 0.1).astype(np.float32)


@pytest.fixture(scope="module")
def engine() -> Iterator[kaiwa.Engine]:
    with kaiwa.Engine("synth:tiny", slots=8, step_budget=None) as engine:
        yield engine


@pytest.fixture(scope="module")
def by_hand() -> Audio:
    """The answer to caller 3 with seed 3, frame by frame."""
    duplex = kaiwa.Duplex.from_pretrained("synth:tiny", seed=3, prime=True)
    frames = speech(3).reshape(-1, 1, 1920)
    return np.concatenate([duplex.step(frame).audio[0] for frame in frames])


def heard(events: list[kaiwa.Event]) -> Audio:
    return np.concatenate([e.pcm for e in events if isinstance(e, kaiwa.AudioEvent)])


async def converse(engine: kaiwa.Engine, number: int, seed: int) -> list[kaiwa.Event]:
    """A caller that sends in pieces of odd lengths."""
    async with engine.session(seed=seed) as session:

        async def talk() -> None:
            for piece in np.array_split(speech(number), 7 + number):
                await session.send(piece)
                await asyncio.sleep(0)
            session.finish()

        talking = asyncio.create_task(talk())
        events = [event async for event in session]
        await talking
        return events


def test_alone(engine: kaiwa.Engine, by_hand: Audio) -> None:
    with engine.session(seed=3) as session:
        session.send(speech(3))
        session.finish()
        events = list(session)
    assert np.array_equal(heard(events), by_hand)
    assert isinstance(events[-1], kaiwa.EndEvent)
    assert events[-1].reason == "finished"
    assert any(isinstance(e, kaiwa.TextEvent) and e.text for e in events)


async def test_among_seven_others(engine: kaiwa.Engine, by_hand: Audio) -> None:
    answers = await asyncio.gather(*(converse(engine, n, n) for n in range(8)))
    assert np.array_equal(heard(answers[3]), by_hand)
    batches = engine.stats()["batch"]
    assert sum(batches[1][2:]) > 0, "the sessions never shared a step"


async def test_another_seed_differs(engine: kaiwa.Engine, by_hand: Audio) -> None:
    assert not np.array_equal(heard(await converse(engine, 3, 4)), by_hand)


def test_the_command_run_says_the_same(engine: kaiwa.Engine, tmp_path: Path) -> None:
    sound, answer, words = (tmp_path / name for name in ("in.wav", "out.wav", "text.jsonl"))
    # What a file of 16 bits holds exactly.
    said = np.rint(speech(3) * 32768) / 32768
    soundfile.write(sound, said, 24_000, subtype="PCM_16")
    arguments = ["run", str(sound), str(answer), "--text", str(words), "--quiet"]
    assert cli.main([*arguments, "--model", "synth:tiny", "--seed", "3"]) == 0
    with engine.session(seed=3) as session:
        session.send(said.astype(np.float32))
        session.finish()
        events = list(session)
    of_file, _ = soundfile.read(answer, dtype="float32")
    # The file's samples are rounded to 16 bits, or cut where they are too loud.
    difference = np.abs(of_file - np.clip(heard(events), -1, 32767 / 32768))
    assert difference.max() <= 1.1 / 32768
    pieces = [{"t": e.t, "text": e.text} for e in events if isinstance(e, kaiwa.TextEvent)]
    lines = words.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == pieces
    assert len(pieces) > 5


def test_text_follows_the_audio_of_its_frame(engine: kaiwa.Engine) -> None:
    with engine.session(seed=1) as session:
        session.send(speech(1))
        session.finish()
        events = list(session)
    last = -1.0
    for event in events:
        if isinstance(event, kaiwa.AudioEvent):
            assert event.t == pytest.approx(last + 0.08 if last >= 0 else 0.0)
            last = event.t
        elif isinstance(event, kaiwa.TextEvent):
            assert event.t == last


def test_no_slot_no_session() -> None:
    with (
        kaiwa.Engine.echo(slots=1, queue=1) as engine,
        engine.session(),
        pytest.raises(kaiwa.CapacityError) as raised,
        engine.session(wait=0),
    ):
        pass
    assert raised.value.reason == "full"


def test_a_closed_engine_says_so() -> None:
    engine = kaiwa.Engine.echo()
    engine.close()
    with pytest.raises(kaiwa.ClosedError), engine.session():
        pass


def test_opus_in_opus_out() -> None:
    writer, reader = kaiwa.OggOpusWriter(), kaiwa.OggOpusReader()
    t = np.arange(24_000) / 24_000
    tone = (0.3 * np.sin(2 * np.pi * 440 * t)).astype(np.float32)[: 12 * 1920]
    with kaiwa.Engine.echo() as engine, engine.session(transport="opus") as session:
        for frame in tone.reshape(-1, 1920):
            session.send(writer.write(frame))
        session.finish()
        pages = [e.data for e in session if isinstance(e, kaiwa.AudioEvent)]
    out = np.concatenate([reader.read(page) for page in pages])
    assert len(out) == len(tone)
    assert np.sqrt(np.mean(out[4800:] ** 2)) == pytest.approx(0.3 / np.sqrt(2), rel=0.1)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"pace": "fast"}, "pace"),
        ({"clock": "wall"}, "clock"),
        ({"transport": "mp3"}, "transport"),
        ({"seed": -1}, "seed"),
        ({"temp": float("nan")}, "temp"),
        ({"max_seconds": -1}, "max_seconds"),
        ({"wait": float("nan")}, "wait"),
    ],
)
def test_bad_arguments_name_themselves(
    engine: kaiwa.Engine, arguments: dict[str, object], word: str
) -> None:
    with pytest.raises(kaiwa.InputError, match=word), engine.session(**arguments):  # type: ignore[arg-type]
        pass


def test_bad_audio_is_refused_and_changes_nothing(engine: kaiwa.Engine, by_hand: Audio) -> None:
    pcm = speech(3)
    with engine.session(seed=3) as session:
        for bad in (pcm.astype(np.float64), pcm.reshape(2, -1), pcm * np.float32("nan"), b"x"):
            with pytest.raises(kaiwa.InputError):
                session.send(bad)  # type: ignore[arg-type]
        session.send(pcm)
        session.finish()
        assert np.array_equal(heard(list(session)), by_hand)
