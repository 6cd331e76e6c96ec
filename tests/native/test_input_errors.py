"""Bad input: a table of calls, each with the type of its error and a word of its remedy."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kaiwa

Call = Callable[[kaiwa.Mimi], Any]


def f32(*shape: int) -> Any:
    return np.zeros(shape, np.float32)


def i32(*shape: int) -> Any:
    return np.zeros(shape, np.int32)


def with_value(array: Any, index: Any, value: float) -> Any:
    array[index] = value
    return array


CASES: list[tuple[str, Call, str]] = [
    ("a list", lambda m: m.encode([0.0]), "numpy.asarray"),  # type: ignore[arg-type]
    ("None", lambda m: m.encode(None), "numpy array"),  # type: ignore[arg-type]
    ("float64", lambda m: m.encode(np.zeros(1920)), "astype(numpy.float32)"),  # type: ignore[arg-type]
    ("int16", lambda m: m.encode(np.zeros(1920, np.int16)), "scaling"),
    ("stereo", lambda m: m.encode(f32(2, 1920)), "average the channels"),
    ("stereo batch", lambda m: m.encode(f32(3, 2, 1920)), "average the channels"),
    ("four axes", lambda m: m.encode(f32(1, 1, 1, 1920)), "[B, 1, T]"),
    ("a scalar", lambda m: m.encode(f32()), "[B, 1, T]"),
    ("empty", lambda m: m.encode(f32(0)), "at least one sample"),
    ("no rows", lambda m: m.encode(f32(0, 1, 1920)), "at least one sample"),
    ("NaN", lambda m: m.encode(with_value(f32(3000), 77, np.nan)), "sample 77"),
    ("inf", lambda m: m.encode(with_value(f32(2, 1, 3000), (1, 0, 5), np.inf)), "row 1, sample 5"),
    ("latent NaN", lambda m: m.encode_to_latent(with_value(f32(9), 0, np.nan)), "nan_to_num"),
    ("float codes", lambda m: m.decode(f32(8, 2)), "astype(numpy.int32)"),
    ("bool codes", lambda m: m.decode(np.zeros((8, 2), bool)), "integers"),
    ("1-D codes", lambda m: m.decode(i32(8)), "[K, F]"),
    ("no frames", lambda m: m.decode(i32(8, 0)), "at least one frame"),
    ("no codebooks", lambda m: m.decode(i32(0, 3)), "at least one frame"),
    ("too many", lambda m: m.decode(i32(13, 3)), "choose 1..=12"),
    ("code 64", lambda m: m.decode(with_value(i32(8, 3), (2, 1), 64)), "codebook 2, frame 1"),
    ("code -1", lambda m: m.decode(with_value(i32(2, 8, 3), (1, 0, 0), -1)), "row 1"),
    ("huge code", lambda m: m.decode(np.full((8, 1), 2**64 - 1, np.uint64)), "no code"),
    ("no slots", lambda m: m.stream(0), "at least 1"),
    ("many slots", lambda m: m.stream(10**7), "65536"),
    ("half a slot", lambda m: m.stream(1.5), "whole number"),  # type: ignore[arg-type]
    ("a bool", lambda m: m.stream(True), "whole number"),
    ("window", lambda m: m.stream(window="half"), '"streaming" or "whole"'),  # type: ignore[arg-type]
    ("slot rows", lambda m: m.stream(2).encode(f32(1, 1, 1920)), "every slot a row"),
    ("part frame", lambda m: m.stream().encode(f32(1, 1, 1000)), "whole frames"),
    ("no frame", lambda m: m.stream().encode(f32(1, 1, 0)), "n of at least 1"),
    ("2-D stream", lambda m: m.stream().encode(f32(1, 1920)), "[1, 1, n*1920]"),
    ("stream dtype", lambda m: m.stream().encode(np.zeros((1, 1, 1920))), "float32"),  # type: ignore[arg-type]
    (
        "stream NaN",
        lambda m: m.stream().encode(with_value(f32(1, 1, 1920), (0, 0, 3), np.nan)),
        "sample 3",
    ),
    ("code rows", lambda m: m.stream(2).decode(i32(1, 8, 1)), "[2, K, n]"),
    ("code axes", lambda m: m.stream(1).decode(i32(8, 1)), "[1, K, n]"),
    ("stream code", lambda m: m.stream().decode(with_value(i32(1, 8, 1), (0, 3, 0), 99)), "0..64"),
    ("short mask", lambda m: m.stream(2).encode(f32(2, 1, 1920), [True]), "2 booleans"),
    ("float mask", lambda m: m.stream(1).encode(f32(1, 1, 1920), [0.5]), "1 booleans"),  # type: ignore[list-item]
    ("mask of 2", lambda m: m.stream(1).encode(f32(1, 1, 1920), [2]), "1 booleans"),  # type: ignore[list-item]
    ("mask text", lambda m: m.stream(1).encode(f32(1, 1, 1920), "x"), "booleans"),  # type: ignore[arg-type]
    ("reset 2", lambda m: m.stream(2).reset(2), "0..2"),
    ("reset -1", lambda m: m.stream(2).reset([0, -1]), "0..2"),
    ("reset float", lambda m: m.stream(2).reset([0.5]), "0..2"),  # type: ignore[list-item]
    ("ragged mask", lambda m: m.stream(2).encode(f32(2, 1, 1920), [[True], [1, 0]]), "booleans"),  # type: ignore[list-item]
    ("ragged reset", lambda m: m.stream(2).reset([[0], [1, 2]]), "0..2"),  # type: ignore[list-item]
    ("reset text", lambda m: m.stream(2).reset("1"), "0..2"),  # type: ignore[arg-type]
    ("window None", lambda m: m.stream(window=None), "whole"),  # type: ignore[arg-type]
    ("rate 0", lambda m: kaiwa.Resampler(0, 24000), "at least 1"),
    ("rate -1", lambda m: kaiwa.Resampler(-1, 24000), "at least 1"),
    ("rate 1/2", lambda m: kaiwa.Resampler(0.5, 24000), "whole number"),  # type: ignore[arg-type]
    ("rate 10", lambda m: kaiwa.Resampler(24000, 10), "sample rate"),
    ("resample NaN", lambda m: kaiwa.Resampler(8000, 24000).process(f32(9) * np.nan), "sample 0"),
    ("resample 2-D", lambda m: kaiwa.Resampler(8000, 24000).process(f32(2, 9)), "one channel"),
]


@pytest.mark.parametrize(("call", "word"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_bad_calls(call: Call, word: str, mimi: kaiwa.Mimi) -> None:
    with pytest.raises(kaiwa.InputError, match=re.escape(word)) as caught:
        call(mimi)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, kaiwa.KaiwaError)


@pytest.mark.parametrize("code", [2**31, 2**32 + 5, 2**40, 2**63 - 1, -(2**31) - 1, -(2**40)])
def test_a_code_beyond_32_bits_is_named_as_it_is(code: int, mimi: kaiwa.Mimi) -> None:
    # Cut to 32 bits, 2**32 + 5 would be the valid code 5.
    codes = with_value(np.zeros((8, 3), np.int64), (2, 1), code)
    calls: tuple[Call, ...] = (
        lambda m: m.decode(codes),
        lambda m: m.decode(codes[None]),
        lambda m: m.stream().decode(codes[None]),
    )
    for call in calls:
        with pytest.raises(kaiwa.InputError, match=re.escape(str(code))) as caught:
            call(mimi)
        assert "codebook 2, frame 1" in str(caught.value)


OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"num_codebooks": 0}, "at least 1"),
    ({"num_codebooks": 13}, "1..=12"),
    ({"num_codebooks": "8"}, "whole number"),
    ({"dtype": "float16"}, '"bfloat16"'),
    ({"dtype": np.float32}, '"float32"'),
    ({"device": "gpu"}, '"cuda"'),
    ({"device": "cuda:x"}, "N"),
    ({"device": 0}, "name"),
    ({"config": 5}, "dict or a path"),
    ({"config": {"a": {1, 2}}}, "JSON"),
]


@pytest.mark.parametrize(("options", "word"), OPTIONS, ids=[str(o[0]) for o in OPTIONS])
def test_bad_options(options: dict[str, Any], word: str, mimi_small: Path) -> None:
    with pytest.raises(kaiwa.InputError, match=re.escape(word)):
        kaiwa.Mimi.from_pretrained(mimi_small, **options)


def test_a_device_that_is_not_there(mimi_small: Path) -> None:
    if kaiwa._native.build_info()["features"]:
        pytest.skip("this build has GPU support, so the message is another")
    for device in ("cuda", "cuda:3", "metal"):
        with pytest.raises(kaiwa.DeviceError, match="--features"):
            kaiwa.Mimi.from_pretrained(mimi_small, device=device)


def test_a_refused_call_changes_nothing(mimi: kaiwa.Mimi, pcm: Any) -> None:
    good = pcm[None, None, :1920]
    clean, tried = mimi.stream(), mimi.stream()
    for stream in (clean, tried):
        stream.encode(good)
    with pytest.raises(kaiwa.InputError):
        tried.encode(with_value(good.copy(), (0, 0, 9), np.nan))
    np.testing.assert_array_equal(clean.encode(good), tried.encode(good))


def test_arrays_at_odd_addresses_are_read_as_their_copies(mimi: kaiwa.Mimi) -> None:
    wave = (np.sin(np.arange(4000) / 9) * 0.3).astype(np.float32)
    packed = np.zeros(4000, dtype=[("tag", "u1"), ("sample", "<f4")])
    packed["sample"] = wave
    field = packed["sample"]
    assert field.strides == (5,)
    shifted = np.frombuffer(b"x" + wave.tobytes(), np.float32, offset=1)
    assert not shifted.flags.aligned
    codes, half = mimi.encode(wave), kaiwa.Resampler(24_000, 12_000).process(wave)
    for odd in (field, shifted):
        np.testing.assert_array_equal(mimi.encode(odd), codes)
        np.testing.assert_array_equal(kaiwa.Resampler(24_000, 12_000).process(odd), half)
    with kaiwa.Engine.echo(slots=1) as engine, engine.session() as session:
        session.send(field)
        session.finish()
        heard = [event.pcm for event in session if isinstance(event, kaiwa.AudioEvent)]
    np.testing.assert_array_equal(np.concatenate(heard)[:4000], wave)


def test_samples_that_would_overflow_are_refused_and_change_nothing(mimi: kaiwa.Mimi) -> None:
    wave = (np.sin(np.arange(4000) / 9) * 0.3).astype(np.float32)
    resampler = kaiwa.Resampler(44_100, 24_000)
    want = kaiwa.Resampler(44_100, 24_000).process(wave)
    for value in (3e38, -2e6):
        bad = np.array([0.1, value], np.float32)
        with pytest.raises(
            kaiwa.InputError, match="at row 0, sample 1; samples must be finite numbers"
        ):
            mimi.encode(bad)
        with pytest.raises(kaiwa.InputError, match="sample 1"):
            resampler.process(bad)
        with (
            kaiwa.Engine.echo(slots=1) as engine,
            engine.session() as session,
            pytest.raises(kaiwa.InputError, match="sample 1"),
        ):
            session.send(bad)
    np.testing.assert_array_equal(resampler.process(wave), want)
