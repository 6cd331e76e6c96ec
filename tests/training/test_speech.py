"""Speakers that are made, the model's own codes, and the stage that trains the ears."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("scipy")

from tests.training.test_training import clips  # noqa: E402
from training.clips import HEARD, RATE, WORDS, Clip, Clips  # noqa: E402

import kaiwa  # noqa: E402
from training import codec, mixing, train_hearing, voice, words  # noqa: E402

FRAME = mixing.FRAME


def hum(pitch: float, seconds: float) -> Clip:
    """Two halves, "one" and "two", of a buzz with formants."""
    time = np.arange(int(seconds * RATE)) / RATE
    buzz = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 40))
    audio = (0.3 * np.asarray(buzz) / np.abs(buzz).max()).astype(np.float32)
    half = len(audio) // 2
    return Clip(audio, ["one", "two"], [(0, half), (half, len(audio))], "flite:kal")


def test_a_new_speaker_says_the_same_words_otherwise() -> None:
    world = pytest.importorskip("pyworld")
    from training.speakers import speaker, spoken_by

    clip = hum(120, 1.0)
    lengths, pitches, made = [], [], []
    for number in range(6):
        rng = np.random.default_rng(number)
        who = speaker(rng)
        other = spoken_by(clip, who, rng)
        assert other is not None
        made.append(other.audio)
        assert other.words == clip.words
        (a, b), (c, d) = other.bounds
        assert 0 == a < b <= c < d == len(other.audio)
        assert abs(b - d / 2) < 0.2 * d
        assert len(other.audio) / len(clip.audio) == pytest.approx(1 / who["tempo"], rel=0.35)
        wave = other.audio.astype(np.float64)
        found, _ = world.dio(wave, RATE)
        pitches.append(float(np.median(found[found > 0])))
        assert pitches[-1] == pytest.approx(who["pitch"], rel=0.15)
        lengths.append(len(other.audio))
    assert max(pitches) / min(pitches) > 1.3
    assert len(set(lengths)) == 6
    # The same numbers make the same speaker, and silence is nobody.
    rng = np.random.default_rng(5)
    again = spoken_by(clip, speaker(rng), rng)
    assert again is not None
    assert np.array_equal(again.audio, made[-1])
    assert spoken_by(Clip(np.zeros(RATE, np.float32), ["one"], [(0, RATE)]), who, rng) is None


def noises(vocabulary: tuple[str, ...]) -> Clips:
    """A noise of its own for each word, 0.3 s long."""
    made = clips(vocabulary, 1)
    noise = np.random.default_rng(0).standard_normal(len(made.audio)) * 3000
    made.audio = noise.astype(np.int16)
    return made


def test_own_words_have_the_same_codes_wherever_they_are_said() -> None:
    own = noises(WORDS)
    mimi = kaiwa.Mimi.from_pretrained("demo", device="cpu")
    codes = voice.Codes(mimi, own)
    said = voice.Voice(own, 40)
    said.say(3, [4, 4])
    said.say(20, [4, 7])
    said.stop(27)
    found = codes.of(said.parts)
    length = -(-7200 // FRAME) + 1
    assert np.array_equal(found[:, 3 : 3 + length], found[:, 20 : 20 + length])
    assert np.array_equal(found[:, 3 : 3 + length], found[:, 3 + length : 3 + 2 * length])
    assert not np.array_equal(found[:, 3 : 3 + length], found[:, 0:1].repeat(length, 1))
    for frame in (0, 2, 15, 27, 39):  # silence, also after it was stopped
        assert np.array_equal(found[:, frame], codes.silence)
    # They are the codec's own: of the first word after a long silence, frame by frame.
    audio = np.zeros((voice.LEAD + length) * FRAME, np.float32)
    audio[voice.LEAD * FRAME : voice.LEAD * FRAME + 7200] = own.samples(4)
    heard = mimi.stream(1).encode(audio[None, None])[0]
    assert np.array_equal(heard[:, voice.LEAD :], found[:, 3 : 3 + length])
    assert not said.audio[27 * FRAME :].any()
    assert np.array_equal(said.audio_of(own), said.audio)
    assert (said.text[27:] == words.PAD).all()


def test_a_word_is_remembered_for_a_while() -> None:
    placed = [mixing.Placed(3, 0, 5 * FRAME), mixing.Placed(8, 7 * FRAME, 9 * FRAME + 10)]
    found = mixing.ended(placed, 20)
    assert list(found[:4]) == [mixing.NONE] * 4
    assert list(found[4:9]) == [3] * 5  # its last frame, and until another one has ended
    assert list(found[9:15]) == [8] * 6
    assert list(found[15:]) == [mixing.NONE] * 5


def test_the_ears_learn_and_the_decoder_does_not() -> None:
    torch.manual_seed(0)
    made = codec.Codec(codec.CodecSize(filters=4, layers=1))
    heads = train_hearing.Heads(made.size.dimension)
    rng = np.random.default_rng(0)
    callers, own = noises(HEARD), noises(WORDS)
    rows = []
    for _ in range(3):
        sound, clean, placed = mixing.crop(rng, callers, own, 16)
        rows.append((sound, clean, mixing.labels(placed, 16), mixing.ended(placed, 16)))
    batch = tuple(torch.from_numpy(np.stack(part)) for part in zip(*rows, strict=True))
    trained = [*train_hearing.trained_parts(made), *heads.parameters()]
    optimiser = torch.optim.Adam(trained, 3e-3)
    first = last = 0.0
    for step in range(25):
        parts = train_hearing.losses(made, heads, batch, half=False)
        loss = parts["state"] + parts["ended"] + parts["spectra"] + 0.25 * parts["commit"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        first, last = (float(loss.detach()) if step == 0 else first), float(loss.detach())
    assert last < 0.8 * first
    assert all(p.grad is not None for p in made.encoder.parameters())
    assert all(p.grad is None for p in made.decoder.parameters())


SCRIPT = """
import argparse, sys, torch
from training import distributed

def work(options):
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 2)
    x = torch.arange(12.0).view(4, 3) ** 0.5
    mine = x[2 * distributed.rank() : 2 * distributed.rank() + 2] if distributed.size() == 2 else x
    layer(mine).square().mean().backward()
    distributed.average(list(layer.parameters()))
    own = torch.full((2,), float(distributed.rank()))
    distributed.follow_first([own])
    if distributed.rank() == 0:
        print(layer.weight.grad.flatten().tolist(), own.tolist())
    else:
        assert own.tolist() == [0.0, 0.0]

if __name__ == "__main__":
    distributed.run(work, argparse.Namespace(processes=int(sys.argv[1])))
"""


def test_two_processes_train_like_one(tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    script.write_text(SCRIPT)
    root = Path(__file__).parents[2]
    found = []
    for processes in ("1", "2"):
        done = subprocess.run(
            [sys.executable, str(script), processes],
            env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=True,
        )
        gradient, own = done.stdout.strip().rsplit(" [", 1)
        assert own == "0.0, 0.0]"
        found.append([float(v) for v in gradient.strip("[]").split(",")])
    assert found[0] == pytest.approx(found[1], rel=1e-5)
