"""Every tensor of the reference case through the Python API, on both backends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.device_list import DEVICES, tolerance

import kaiwa

Golden = dict[str, NDArray[Any]]


@pytest.fixture(scope="module", params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def codec(device: str, mimi_small: Path) -> kaiwa.Mimi:
    return kaiwa.Mimi.from_pretrained(mimi_small, device=device)


def test_whole_signal(device: str, codec: kaiwa.Mimi, golden: Golden) -> None:
    codes = codec.encode(golden["pcm"])
    assert codes.dtype == np.int32
    np.testing.assert_array_equal(codes, golden["codes"])
    close = tolerance(device).signal
    np.testing.assert_allclose(codec.encode_to_latent(golden["pcm"]), golden["latent"], atol=close)
    pcm = codec.decode(codes)
    assert pcm.dtype == np.float32
    np.testing.assert_allclose(pcm[0], golden["decoded"], atol=close)


def test_all_codebooks(device: str, mimi_small: Path, golden: Golden) -> None:
    codec = kaiwa.Mimi.from_pretrained(mimi_small, device=device, num_codebooks=12)
    np.testing.assert_array_equal(codec.encode(golden["pcm"]), golden["codes_all"])


@pytest.mark.parametrize("chunk", [1, 3, 54])
def test_streaming(device: str, codec: kaiwa.Mimi, golden: Golden, chunk: int) -> None:
    stream = codec.stream()
    codes, audio = [], []
    for start in range(0, 54, chunk):
        piece = golden["pcm"][start * 1920 : min(start + chunk, 54) * 1920]
        codes.append(stream.encode(piece[None, None]))
        audio.append(stream.decode(codes[-1]))
    np.testing.assert_array_equal(np.concatenate(codes, 2)[0], golden["stream_codes"])
    got = np.concatenate(audio, 2)[0, 0]
    np.testing.assert_allclose(got, golden["stream_decoded"], atol=tolerance(device).signal)


def test_the_window_rules_differ_and_whole_streams_follow_whole_calls(
    mimi: kaiwa.Mimi, golden: Golden
) -> None:
    pcm = golden["pcm"][None, None, : 54 * 1920]
    whole = mimi.decode(golden["codes"][None, :, :54])
    stream = mimi.stream(window="whole")
    pieces = [stream.decode(golden["codes"][None, :, i : i + 9]) for i in range(0, 54, 9)]
    np.testing.assert_array_equal(np.concatenate(pieces, 2), whole)
    np.testing.assert_array_equal(mimi.stream(window="whole").encode(pcm), mimi.encode(pcm))
    assert np.abs(mimi.stream().decode(golden["codes"][None, :, :54]) - whole).max() > 1e-6


def test_properties(mimi: kaiwa.Mimi) -> None:
    facts = (mimi.sample_rate, mimi.frame_rate, mimi.frame_size, mimi.num_codebooks)
    assert facts == (24000, 12.5, 1920, 8)
    assert (mimi.max_codebooks, mimi.cardinality) == (12, 64)
    assert (mimi.device, mimi.dtype) == ("cpu", "float32")
    assert repr(mimi) == "Mimi(num_codebooks=8, device='cpu', dtype='float32')"


def test_batch_axis_is_kept_as_given(mimi: kaiwa.Mimi, pcm: NDArray[np.float32]) -> None:
    flat, one, batch = pcm[:4000], pcm[None, :4000], np.stack([pcm[:4000], pcm[4000:8000]])[:, None]
    assert mimi.encode(flat).shape == mimi.encode(one).shape == (8, 3)
    codes = mimi.encode(batch)
    assert codes.shape == (2, 8, 3)
    np.testing.assert_array_equal(codes[0], mimi.encode(flat))
    assert mimi.encode_to_latent(flat).shape == (32, 3)
    assert mimi.encode_to_latent(batch).shape == (2, 32, 3)
    assert mimi.decode(codes).shape == (2, 1, 3 * 1920)
    assert mimi.decode(codes[1]).shape == (1, 3 * 1920)
    np.testing.assert_array_equal(mimi.decode(codes)[1], mimi.decode(codes[1]))


def test_arrays_of_any_stride_and_integer_type(mimi: kaiwa.Mimi, pcm: NDArray[np.float32]) -> None:
    strided = np.repeat(pcm[:4000], 2)[::2]
    assert not strided.flags.c_contiguous
    codes = mimi.encode(strided)
    np.testing.assert_array_equal(codes, mimi.encode(pcm[:4000]))
    want = mimi.decode(codes)
    for dtype in (np.uint8, np.int16, np.uint32, np.int64, np.uint64, ">i4"):
        np.testing.assert_array_equal(mimi.decode(codes.astype(dtype)), want)
    np.testing.assert_array_equal(mimi.decode(np.asfortranarray(codes)), want)


def test_bf16_weights_are_close(mimi_small: Path, mimi: kaiwa.Mimi, golden: Golden) -> None:
    codec = kaiwa.Mimi.from_pretrained(mimi_small, device="cpu", dtype="bfloat16")
    assert codec.dtype == "bfloat16"
    want = golden["latent"]
    error = codec.encode_to_latent(golden["pcm"]) - want
    assert 1e-5 < np.linalg.norm(error) / np.linalg.norm(want) < 1.1e-2
