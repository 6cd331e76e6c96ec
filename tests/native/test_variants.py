"""Configurations other than the released one, against the PyTorch reference, on both backends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file
from tests.device_list import DEVICES

import kaiwa

FOLDER = Path(__file__).parents[1] / "data" / "mimi_variants"
NAMES = ["four_steps_projected", "other_rate", "shortcut_dilated"]


def test_every_variant_is_listed() -> None:
    assert sorted(path.name for path in FOLDER.iterdir()) == NAMES


def close(got: NDArray[Any], want: NDArray[Any]) -> None:
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", NAMES)
def test_variant(name: str, device: str) -> None:
    golden = load_file(FOLDER / name / "expected.safetensors")
    mimi = kaiwa.Mimi.from_pretrained(FOLDER / name, device=device)
    np.testing.assert_array_equal(mimi.encode(golden["pcm"]), golden["codes"])
    close(mimi.encode_to_latent(golden["pcm"]), golden["latent"])
    close(mimi.decode(golden["codes"])[0], golden["decoded"])
    stream, size = mimi.stream(), mimi.frame_size
    frames = golden["stream_codes"].shape[1]
    codes = stream.encode(golden["pcm"][None, None, : frames * size])
    np.testing.assert_array_equal(codes[0], golden["stream_codes"])
    close(stream.decode(codes)[0, 0], golden["stream_decoded"])


def test_random_weights_by_name() -> None:
    a, b = (kaiwa.Mimi.from_pretrained("synth:small") for _ in range(2))
    pcm = np.linspace(-0.5, 0.5, 3 * 1920, dtype=np.float32)
    np.testing.assert_array_equal(a.encode(pcm), b.encode(pcm))
    with pytest.raises(kaiwa.errors.InputError, match="synth:small"):
        kaiwa.Mimi.from_pretrained("synth:large")
    with pytest.raises(kaiwa.errors.InputError, match="config"):
        kaiwa.Mimi.from_pretrained("synth:small", config={})
