"""Sample rates: length, delay, amplitude, what is removed, and independence of the cutting."""

from __future__ import annotations

from math import ceil

import numpy as np
import pytest
from numpy.typing import NDArray

import kaiwa

Signal = NDArray[np.float32]

RATES = [
    (8_000, 24_000),
    (11_025, 24_000),
    (16_000, 24_000),
    (22_050, 24_000),
    (44_100, 24_000),
    (48_000, 24_000),
    (96_000, 24_000),
    (192_000, 24_000),
    (24_000, 8_000),
    (24_000, 44_100),
    (24_000, 48_000),
    (23_999, 24_000),
]


def tone(rate: int, hz: float, samples: int, *, phase: float = 0.3) -> Signal:
    at = np.arange(samples) / rate
    return (0.5 * np.sin(2 * np.pi * hz * at + phase)).astype(np.float32)


def convert(signal: Signal, rates: tuple[int, int], chunk: int = 10**9) -> Signal:
    resampler = kaiwa.Resampler(*rates)
    parts = [resampler.process(signal[i : i + chunk]) for i in range(0, len(signal), chunk)]
    return np.concatenate([*parts, resampler.finish()])


@pytest.mark.parametrize("rates", RATES, ids=str)
@pytest.mark.parametrize("share", [0.01, 0.1, 0.45])
def test_a_tone_keeps_phase_and_amplitude(rates: tuple[int, int], share: float) -> None:
    """`share` of the lower rate, so 0.45 is 90 % of what it can hold."""
    source, target = rates
    hz = share * min(rates)
    out = convert(tone(source, hz, source), rates)
    assert out.dtype == np.float32
    assert out.shape == (target,)
    middle = slice(target // 5, 4 * target // 5)
    assert np.abs(out - tone(target, hz, target))[middle].max() < 3e-4


@pytest.mark.parametrize("rates", [r for r in RATES if r[0] > 2 * r[1] * 0.6], ids=str)
def test_what_the_lower_rate_cannot_hold_is_removed(rates: tuple[int, int]) -> None:
    source, target = rates
    out = convert(tone(source, 0.55 * target, source), rates)
    assert np.abs(out[target // 5 : 4 * target // 5]).max() < 1e-4


@pytest.mark.parametrize("rates", RATES, ids=str)
def test_lengths_are_exact_and_cutting_changes_nothing(rates: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for samples in (1, 2, 777, 30_000):
        signal = rng.standard_normal(samples).astype(np.float32)
        once = convert(signal, rates)
        assert len(once) == ceil(samples * rates[1] / rates[0])
        np.testing.assert_array_equal(once, convert(signal, rates, chunk=samples // 3 + 1))


def test_equal_rates_are_the_identity() -> None:
    signal = np.random.default_rng(1).standard_normal(5000).astype(np.float32)
    np.testing.assert_array_equal(convert(signal, (24_000, 24_000), chunk=700), signal)


def test_nothing_in_nothing_out_and_a_new_beginning() -> None:
    resampler = kaiwa.Resampler(44_100, 24_000)
    assert resampler.finish().shape == (0,)
    signal = tone(44_100, 300, 9000)
    first = np.concatenate([resampler.process(signal), resampler.finish()])
    second = np.concatenate([resampler.process(signal), resampler.finish()])
    np.testing.assert_array_equal(first, second)
    assert np.abs(first).max() > 0.4


# ---- with little delay ---------------------------------------------------------------------------


def converted(signal: Signal, rates: tuple[int, int], chunk: int = 10**9) -> Signal:
    """The signal at the other rate, without the silence that the filter's delay is."""
    resampler = kaiwa.Resampler(*rates, low_delay=True)
    parts = [resampler.process(signal[i : i + chunk]) for i in range(0, len(signal), chunk)]
    out = np.concatenate([*parts, resampler.finish()])
    delay = len(out) - ceil(len(signal) * rates[1] / rates[0])
    # None for rates that have too many phases.
    assert delay == 0 or 40 <= delay / rates[1] * min(rates) <= 42
    return out[delay:]


@pytest.mark.parametrize("rates", RATES, ids=str)
@pytest.mark.parametrize("share", [0.01, 0.1, 0.3, 0.42])
def test_a_short_filter_keeps_phase_and_amplitude(rates: tuple[int, int], share: float) -> None:
    source, target = rates
    hz = share * min(rates)
    out = converted(tone(source, hz, source), rates)
    assert out.dtype == np.float32
    middle = slice(target // 5, 4 * target // 5)
    assert np.abs(out - tone(target, hz, target))[middle].max() < 2e-3


@pytest.mark.parametrize("rates", [r for r in RATES if r[0] > 2 * r[1] * 0.6], ids=str)
def test_a_short_filter_removes_what_the_lower_rate_cannot_hold(rates: tuple[int, int]) -> None:
    source, target = rates
    out = converted(tone(source, 0.52 * target, source), rates)
    assert np.abs(out[target // 5 : 4 * target // 5]).max() < 1e-3


@pytest.mark.parametrize("rates", RATES, ids=str)
def test_a_short_filter_is_exact_in_length_however_it_is_cut(rates: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for samples in (0, 1, 2, 777, 10_000):
        signal = rng.standard_normal(samples).astype(np.float32)
        once = converted(signal, rates)
        assert len(once) == ceil(samples * rates[1] / rates[0])
        np.testing.assert_array_equal(once, converted(signal, rates, chunk=samples // 3 + 1))
        if samples < 1000:
            np.testing.assert_array_equal(once, converted(signal, rates, chunk=7))


@pytest.mark.parametrize("rates", [(8000, 24000), (24000, 8000), (16000, 24000), (24000, 16000)])
def test_a_short_filter_lets_nothing_wait(rates: tuple[int, int]) -> None:
    source, target = rates
    resampler = kaiwa.Resampler(*rates, low_delay=True)
    message = np.full(source // 50, 0.1, np.float32)
    assert {len(resampler.process(message)) for _ in range(100)} == {target // 50}


def test_a_short_filter_begins_anew_and_refuses_what_is_no_audio() -> None:
    resampler = kaiwa.Resampler(8000, 24000, low_delay=True)
    signal = tone(8000, 300, 900)
    first = np.concatenate([resampler.process(signal), resampler.finish()])
    with pytest.raises(kaiwa.errors.InputError, match="clean the audio"):
        resampler.process(np.array([np.nan], np.float32))
    second = np.concatenate([resampler.process(signal), resampler.finish()])
    np.testing.assert_array_equal(first, second)
