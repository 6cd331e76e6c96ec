"""The buffer before the loudspeaker, without a clock."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from kaiwa.client.jitter import LIMIT, STANDING, TARGET, JitterBuffer

RATE = 24_000
FRAME = 1920
BLOCK = 480


def frame(number: int) -> NDArray[np.float32]:
    """A frame whose samples tell their place, from 1 on."""
    return np.arange(number * FRAME + 1, (number + 1) * FRAME + 1, dtype=np.float32)


def play(buffer: JitterBuffer, arrivals: list[int], blocks: int) -> NDArray[np.float32]:
    """Reads 20 ms blocks; frame `i` arrives before block `arrivals[i]`."""
    out = []
    for block in range(blocks):
        for number, at in enumerate(arrivals):
            if at == block:
                buffer.write(frame(number))
        out.append(buffer.read(BLOCK))
    return np.concatenate(out)


def test_a_steady_answer_is_played_whole_after_a_short_wait() -> None:
    buffer = JitterBuffer(RATE)
    out = play(buffer, [i * 4 for i in range(50)], 200)
    wait = round(TARGET * RATE)
    assert not out[:wait].any()
    np.testing.assert_array_equal(out[wait:], np.arange(1, len(out) - wait + 1))
    assert (buffer.underruns, buffer.dropped) == (0, 0.0)
    assert buffer.seconds < STANDING


def test_jitter_within_the_wait_does_no_harm() -> None:
    buffer = JitterBuffer(RATE)
    late = [i * 4 + (3 if i % 5 == 2 else 0) for i in range(50)]
    out = play(buffer, late, 200)
    assert buffer.underruns == 0
    played = out[np.flatnonzero(out)[0] :]
    assert (np.diff(played) == 1).all()


def test_after_running_empty_it_waits_again() -> None:
    buffer = JitterBuffer(RATE)
    out = play(buffer, [0, 4, 30, 34], 50)
    assert buffer.underruns == 2
    np.testing.assert_array_equal(out[out > 0], np.arange(1, 4 * FRAME + 1))
    assert np.flatnonzero(out == 2 * FRAME + 1)[0] == 30 * BLOCK + round(TARGET * RATE)


def test_a_burst_is_cut_at_once() -> None:
    buffer = JitterBuffer(RATE)
    for number in range(20):
        buffer.write(frame(number))
        assert buffer.seconds <= LIMIT
    assert buffer.dropped > 1.0
    out = buffer.read(4 * FRAME)
    assert out.max() <= 20 * FRAME


def test_a_standing_delay_is_cut_after_a_while() -> None:
    buffer = JitterBuffer(RATE)
    play(buffer, [0, 0, 0, 0] + [i * 4 for i in range(1, 75)], 300)
    assert buffer.seconds < 0.2
    assert 0.1 < buffer.dropped < 0.4
    assert buffer.underruns == 0


def test_nothing_written() -> None:
    buffer = JitterBuffer(RATE)
    buffer.write(np.zeros(0, np.float32))
    assert not buffer.read(1000).any()
    assert buffer.underruns == 0


@pytest.mark.parametrize("rate", [8000, 48_000])
def test_other_rates(rate: int) -> None:
    buffer = JitterBuffer(rate)
    buffer.write(np.ones(rate // 5, np.float32))
    assert buffer.seconds == pytest.approx(0.2)
    assert buffer.read(rate // 10).sum() == pytest.approx(rate * 0.04, abs=1)
