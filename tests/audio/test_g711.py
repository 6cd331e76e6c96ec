"""G.711 against the tables of the recommendation, and against Python's own old module."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import numpy as np
import pytest

from kaiwa import g711
from kaiwa.g711 import Law

LAWS: tuple[Law, ...] = ("mulaw", "alaw")

#: Codes and their values in 16 bits: ends of segments, both signs (ITU-T G.711, tables 1a to 2b).
KNOWN: dict[Law, dict[int, int]] = {
    "mulaw": {
        0x80: 32124,
        0x8F: 16764,
        0x9F: 8316,
        0xAF: 4092,
        0xFE: 8,
        0xFF: 0,
        0x7F: 0,
        0: -32124,
    },
    "alaw": {0xD5: 8, 0x55: -8, 0xAA: 32256, 0x2A: -32256, 0xA5: 16896, 0xC5: 264, 0xF5: 528},
}


@pytest.mark.parametrize("law", LAWS)
def test_known_codes(law: Law) -> None:
    for code, value in KNOWN[law].items():
        assert g711.decode(bytes([code]), law)[0] * 32768 == value, hex(code)


@pytest.mark.parametrize("law", LAWS)
def test_every_code_comes_back(law: Law) -> None:
    codes = bytes(range(256))
    decoded = g711.decode(codes, law)
    again = g711.encode(decoded, law)
    # µ-law has two codes for silence.
    wanted = codes.replace(b"\x7f", b"\xff") if law == "mulaw" else codes
    assert again == wanted


@pytest.mark.parametrize("law", LAWS)
def test_a_sample_gets_the_nearest_code_within_its_segment(law: Law) -> None:
    samples = np.arange(-32767, 32768, dtype=np.float32) / np.float32(32767)
    error = np.abs(g711.decode(g711.encode(samples, law), law) - samples)
    # A step is a sixteenth of its segment, which is half as long as its end is high; the loudest
    # samples are beyond the last code.
    assert (error <= np.maximum(np.abs(samples) / 16, 16 / 32768) + 1e-4).all()


@pytest.mark.parametrize("law", LAWS)
def test_what_is_too_loud_is_clipped(law: Law) -> None:
    loud, full = (np.array([x, -x], np.float32) for x in (7.0, 1.0))
    assert g711.encode(loud, law) == g711.encode(full, law)


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="Python 3.13 has no audioop any more")
@pytest.mark.parametrize("law", LAWS)
def test_the_same_as_audioop(law: Law) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import audioop
    short = {"mulaw": "ulaw", "alaw": "alaw"}[law]
    module: Any = audioop
    samples = np.arange(-32767, 32768, dtype=np.int16)
    ours = g711.encode(samples.astype(np.float32) / np.float32(32767), law)
    assert ours == getattr(module, f"lin2{short}")(samples.tobytes(), 2)
    codes = bytes(range(256))
    values = np.frombuffer(getattr(module, f"{short}2lin")(codes, 2), np.int16)
    np.testing.assert_array_equal(g711.decode(codes, law) * 32768, values)
