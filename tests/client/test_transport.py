"""Audio in messages: both formats there and back."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from kaiwa.client.transport import OpusTransport, PcmTransport, transport
from kaiwa.errors import InputError
from kaiwa.synth import voice


def test_pcm_is_exact_to_a_step_and_clips() -> None:
    there, back = PcmTransport(), PcmTransport()
    pcm = np.array([0, 0.5, -0.5, 1, -1, 3, -3], np.float32)
    given = back.decode(there.encode(pcm))
    np.testing.assert_allclose(given, np.clip(pcm, -1, 1), atol=2 / 32768)


def test_pcm_that_is_cut_inside_a_sample() -> None:
    pcm = voice(0.1)
    data = PcmTransport().encode(pcm)
    back = PcmTransport()
    pieces = [back.decode(data[i : i + 7]) for i in range(0, len(data), 7)]
    np.testing.assert_array_equal(np.concatenate(pieces), PcmTransport().decode(data))


def frames(seconds: float) -> list[NDArray[np.float32]]:
    return np.split(voice(seconds), round(seconds / 0.08))


def test_opus_gives_as_much_as_it_takes() -> None:
    there, back = OpusTransport(), OpusTransport()
    lengths = [len(back.decode(there.encode(frame))) for frame in frames(0.8)]
    assert lengths == [1920] * 10


def test_opus_goes_on_after_damage() -> None:
    there, back = OpusTransport(), OpusTransport()
    parts = [there.encode(frame) for frame in frames(0.8)]
    assert len(back.decode(parts[0])) == 1920
    back.decode(b"this is no Ogg page, whatever one does with it" * 50)
    assert sum(len(back.decode(part)) for part in parts[1:]) >= 8 * 1920


def test_another_format() -> None:
    with pytest.raises(InputError, match="choose 'opus' or 'pcm'"):
        transport("mp3")  # type: ignore[arg-type]
