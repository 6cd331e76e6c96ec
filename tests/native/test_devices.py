"""The language model on every device of the list: tokens of the reference, every weight format,
and slots that do not depend on each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file
from tests.device_list import DEVICES, tolerance

import kaiwa

DATA = Path(__file__).parents[1] / "data"
FORMATS = sorted(path.name for path in (DATA / "formats").iterdir())


@pytest.fixture(scope="module", params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def frames(moshi: kaiwa.Moshi, codes: NDArray[Any]) -> NDArray[Any]:
    """Text and audio of every completed frame, `[1 + dep_q, F]`."""
    stream = moshi.stream(seed=0, temp=0, temp_text=0)
    columns = []
    for step in range(codes.shape[1]):
        out = stream.step(codes[None, :, step])
        if out.ready[0]:
            columns.append(np.concatenate([out.text, out.audio[0]]))
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("case", ["moshi_small", "hibiki_small"])
def test_tokens_and_logits_of_the_reference(device: str, case: str) -> None:
    moshi = kaiwa.Moshi.from_pretrained(DATA / case, device=device, dtype="float32")
    want = load_file(DATA / case / "expected.safetensors")
    stream = moshi.stream(seed=0, temp=0, temp_text=0)
    close = tolerance(device).logits
    for step in range(want["user_codes"].shape[1]):
        out = stream.step(want["user_codes"][None, :, step])
        assert out.step_text_tokens[0] == want["step_text_tokens"][step]
        assert (out.step_audio_tokens[0] == want["step_audio_tokens"][step]).all()
        np.testing.assert_allclose(stream.text_logits[0], want["text_logits"][step], atol=close)
        np.testing.assert_allclose(stream.audio_logits[0], want["audio_logits"][step], atol=close)


@pytest.mark.parametrize("name", FORMATS)
def test_tokens_of_every_format(device: str, name: str) -> None:
    folder = DATA / "formats" / name
    want = load_file(folder / "expected.safetensors")
    exact = kaiwa.Moshi.from_pretrained(folder, device=device, dtype="float32")
    assert (frames(exact, want["sharp_user_codes"]) == want["sharp_out_tokens"]).all()
    held = kaiwa.Moshi.from_pretrained(folder, device=device)
    assert (frames(held, want["user_codes"]) == want["out_tokens"]).all()


def test_slots_that_pause_and_begin_anew_say_what_they_say_alone(device: str) -> None:
    moshi = kaiwa.Moshi.from_pretrained(DATA / "moshi_small", device=device, dtype="float32")
    codes = load_file(DATA / "moshi_small" / "expected.safetensors")["user_codes"]
    alone = frames(moshi, codes)
    slots = 4
    stream = moshi.stream(slots, seed=list(range(slots)), temp=0, temp_text=0)
    rng = np.random.default_rng(5)
    at = [0] * slots
    said: list[list[NDArray[Any]]] = [[] for _ in range(slots)]
    for step in range(codes.shape[1] + 30):
        active = rng.random(slots) < 0.8
        active &= np.array(at) < codes.shape[1]
        if step == 25:
            stream.reset([2])
            at[2], said[2] = 0, []
        given = np.stack([codes[:, min(n, codes.shape[1] - 1)] for n in at])
        out = stream.step(given, active)
        for slot in np.flatnonzero(active):
            at[slot] += 1
            if out.ready[slot]:
                said[slot].append(np.concatenate([out.text[slot : slot + 1], out.audio[slot]]))
    for columns in said:
        assert len(columns) > 40
        assert (np.stack(columns, axis=1) == alone[:, : len(columns)]).all()
