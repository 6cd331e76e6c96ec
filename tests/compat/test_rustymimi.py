"""`kaiwa.compat.rustymimi` against the real rustymimi, call by call, on one checkpoint."""

from __future__ import annotations

import gc
import inspect
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kaiwa.compat.rustymimi as ours
from kaiwa.synth import write_mimi

rustymimi = pytest.importorskip(
    "rustymimi", reason="rustymimi is not installed; make setup brings it", exc_type=ImportError
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """rustymimi knows only the released sizes."""
    return write_mimi(tmp_path_factory.mktemp("mimi") / "mimi.safetensors", seed=3).weights


@pytest.fixture(scope="module")
def both(checkpoint: Path) -> dict[str, Any]:
    return {
        "ours": ours.Tokenizer(checkpoint),
        "theirs": rustymimi.Tokenizer(str(checkpoint)),
    }


@pytest.fixture(scope="module")
def pcm() -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(1)
    t = np.arange(2 * 1920 * 6) / 24000
    wave = 0.3 * np.sin(2 * np.pi * 180 * t) * (1 + np.sin(2 * np.pi * 3 * t))
    noisy = wave + 0.01 * rng.standard_normal(t.size)
    signal: np.ndarray[Any, Any] = noisy.astype(np.float32).reshape(2, 1, -1)
    return signal


def test_whole_signals(both: dict[str, Any], pcm: np.ndarray[Any, Any]) -> None:
    a, b = (both[k].encode(pcm) for k in ("ours", "theirs"))
    assert a.dtype == b.dtype == np.uint32
    assert a.shape == b.shape == (2, 8, 6)
    assert (a == b).mean() > 0.97
    x, y = (both[k].decode(b) for k in ("ours", "theirs"))
    assert x.dtype == y.dtype == np.float32
    assert x.shape == y.shape == (2, 1, 6 * 1920)
    np.testing.assert_allclose(x, y, atol=1e-5 * np.abs(y).max())


def test_steps_of_any_length(checkpoint: Path, pcm: np.ndarray[Any, Any]) -> None:
    a, b = ours.Tokenizer(checkpoint), rustymimi.Tokenizer(str(checkpoint))
    at = 0
    for length in (100, 1820, 0, 4000, 1, 1919, 1919):
        piece = np.ascontiguousarray(pcm[:, :, at : at + length])
        at += length
        x, y = a.encode_step(piece), b.encode_step(piece)
        assert (x is None) == (y is None), length
        if x is None:
            continue
        assert x.shape == y.shape
        assert x.dtype == y.dtype
        assert (x == y).mean() > 0.9
        u, v = a.decode_step(y), b.decode_step(y)
        assert u is not None
        np.testing.assert_allclose(u, v, atol=1e-5 * np.abs(v).max())
    none = np.zeros((2, 8, 0), dtype=np.uint32)
    assert a.decode_step(none) is None
    assert b.decode_step(none) is None


def test_reset_returns_to_the_beginning(checkpoint: Path, pcm: np.ndarray[Any, Any]) -> None:
    tokenizer = ours.Tokenizer(checkpoint, num_codebooks=4)
    first = tokenizer.encode_step(pcm)
    tokenizer.encode_step(np.ascontiguousarray(pcm[:, :, :700]))
    tokenizer.reset()
    again = tokenizer.encode_step(pcm)
    assert first is not None
    assert again is not None
    np.testing.assert_array_equal(first, again)
    tokenizer.reset()
    assert tokenizer.encode_step(np.ascontiguousarray(pcm[:1])) is not None, "another batch size"


def _wait(get: Callable[[], Any]) -> Any:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        result = get()
        if result is not None:
            return result
        time.sleep(0.001)
    raise AssertionError("the worker gave nothing")


def test_stream_tokenizer(
    checkpoint: Path, pcm: np.ndarray[Any, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    a, b = ours.StreamTokenizer(checkpoint), rustymimi.StreamTokenizer(str(checkpoint))
    signal = pcm[0, 0]
    for tokenizer in (a, b):
        assert tokenizer.get_encoded() is None
        for start in range(0, 3 * 1920, 640):
            tokenizer.encode(signal[start : start + 640])
    for _ in range(3):
        x, y = _wait(a.get_encoded), _wait(b.get_encoded)
        assert x.shape == y.shape == (8, 1)
        assert x.dtype == y.dtype
        for tokenizer in (a, b):
            tokenizer.decode(np.ascontiguousarray(y.T))
        u, v = _wait(a.get_decoded), _wait(b.get_decoded)
        assert u.shape == v.shape == (1920,)
        np.testing.assert_allclose(u, v, atol=1e-5 * np.abs(v).max())
    a.decode(np.full((1, 8), 5000, dtype=np.uint32))
    a.decode(np.ascontiguousarray(y.T))
    assert _wait(a.get_decoded).shape == (1920,), "the worker goes on after an error"
    assert "error in decoder thread" in capfd.readouterr().err


def test_workers_end_with_their_owner(checkpoint: Path) -> None:
    before = {t for t in threading.enumerate() if t.name.startswith("kaiwa-")}
    tokenizer = ours.StreamTokenizer(checkpoint)
    mine = {t for t in threading.enumerate() if t.name.startswith("kaiwa-")} - before
    assert len(mine) == 2
    del tokenizer
    gc.collect()
    for thread in mine:
        thread.join(timeout=10)
        assert not thread.is_alive()


BAD_CALLS: list[tuple[str, Callable[[Any], Any]]] = [
    ("float64", lambda t: t.encode(np.zeros((1, 1, 1920)))),
    ("1-D pcm", lambda t: t.encode(np.zeros(1920, np.float32))),
    ("a list", lambda t: t.encode([0.0] * 1920)),
    ("two channels", lambda t: t.encode(np.zeros((1, 2, 1920), np.float32))),
    ("not contiguous", lambda t: t.encode(np.zeros((1, 1, 3840), np.float32)[:, :, ::2])),
    ("int32 codes", lambda t: t.decode(np.zeros((1, 8, 2), np.int32))),
    ("seven rows", lambda t: t.decode(np.zeros((1, 7, 2), np.uint32))),
    ("code 2048", lambda t: t.decode(np.full((1, 8, 2), 2048, np.uint32))),
]


@pytest.mark.parametrize(("what", "call"), BAD_CALLS, ids=[w for w, _ in BAD_CALLS])
def test_the_same_exception_types(
    what: str, call: Callable[[Any], Any], both: dict[str, Any]
) -> None:
    with pytest.raises((TypeError, ValueError)) as theirs:
        call(both["theirs"])
    with pytest.raises((TypeError, ValueError)) as mine:
        call(both["ours"])
    wanted = TypeError if isinstance(theirs.value, TypeError) else ValueError
    assert isinstance(mine.value, wanted), what


def test_constructor_errors(checkpoint: Path, tmp_path: Path) -> None:
    for module in (ours, rustymimi):
        with pytest.raises(ValueError, match="missing"):
            module.Tokenizer(str(tmp_path / "missing.safetensors"))
        with pytest.raises(ValueError, match="unsupported dtype"):
            module.Tokenizer(str(checkpoint), dtype="f64")
        with pytest.raises(ValueError):
            module.Tokenizer(str(checkpoint), num_codebooks=33)
        with pytest.raises(TypeError):
            module.Tokenizer(str(checkpoint), 8)
        with pytest.raises(ValueError):
            module.Tokenizer(str(tmp_path))
        with pytest.raises(ValueError):
            module.Tokenizer("kyutai/mimi")  # a path, never a repository
    with pytest.raises(ValueError, match="num_codebooks"):
        ours.Tokenizer(checkpoint, num_codebooks=0)


WRONG_OPTIONS: list[dict[str, Any]] = [
    {"num_codebooks": 8.0},
    {"num_codebooks": "8"},
    {"num_codebooks": -1},
    {"dtype": None},
    {"max_seq_len": "x"},
    {"max_seq_len": -1},
    {"path": 5},
    {"path": b"mimi"},
    {"other": 1},
]


@pytest.mark.parametrize("options", WRONG_OPTIONS, ids=str)
@pytest.mark.parametrize("name", ["Tokenizer", "StreamTokenizer"])
def test_wrong_options_raise_the_same(name: str, options: dict[str, Any], checkpoint: Path) -> None:
    arguments = {"path": str(checkpoint), **options}
    with pytest.raises((TypeError, OverflowError)) as theirs:
        getattr(rustymimi, name)(**arguments)
    with pytest.raises(type(theirs.value)):
        getattr(ours, name)(**arguments)


def _signature(function: Any) -> list[tuple[str, object]]:
    """Names and defaults of the parameters."""
    return [(p.name, p.default) for p in inspect.signature(function).parameters.values()]


def test_signatures_are_equal() -> None:
    names = {name for name in dir(rustymimi) if not name.startswith("_")} - {"rustymimi"}
    assert names == set(ours.__all__)
    assert _signature(ours.write_wav) == _signature(rustymimi.write_wav)
    for name in ("Tokenizer", "StreamTokenizer"):
        mine, theirs = getattr(ours, name), getattr(rustymimi, name)
        assert _signature(mine) == _signature(theirs)
        public = {n for n in dir(theirs) if not n.startswith("_")}
        assert public == {n for n in dir(mine) if not n.startswith("_")}
        for method in public:
            assert _signature(getattr(mine, method)) == _signature(getattr(theirs, method)), method


def test_defects_become_errors(both: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="empty"):
        both["ours"].encode(np.zeros((1, 1, 0), np.float32))
    with pytest.raises(ValueError, match="empty"):
        both["ours"].decode(np.zeros((1, 8, 0), np.uint32))


EDGES = [0, 0.5, -0.5, 1, -1, 2, -3, np.nan, np.inf, -np.inf, 1e-5, 0.99999]
WAVES: list[tuple[Any, int]] = [
    (np.array(EDGES, np.float32), 24000),
    (np.array(EDGES, np.float32)[::2], 44100),
    (np.zeros(0, np.float32), 24000),
    (np.zeros(3, np.float32), 0),
]


@pytest.mark.parametrize(("data", "rate"), WAVES, ids=["edges", "strided", "empty", "rate 0"])
def test_write_wav_is_byte_equal(data: Any, rate: int, tmp_path: Path) -> None:
    ours.write_wav(tmp_path / "a.wav", data, rate)
    rustymimi.write_wav(str(tmp_path / "b.wav"), data, rate)
    written = (tmp_path / "a.wav").read_bytes()
    assert len(written) == 44 + 2 * len(data)
    assert written == (tmp_path / "b.wav").read_bytes()


def test_write_wav_errors(tmp_path: Path) -> None:
    data, good = np.zeros(4, np.float32), str(tmp_path / "c.wav")
    for module in (ours, rustymimi):
        with pytest.raises(ValueError):
            module.write_wav(str(tmp_path / "no" / "c.wav"), data, 24000)
        for arguments in ((good, data[None], 24000), (good, data, 2.5), (b"c.wav", data, 24000)):
            with pytest.raises(TypeError):
                module.write_wav(*arguments)
        for rate in (-1, 2**32):
            with pytest.raises(OverflowError):
                module.write_wav(good, data, rate)
    assert not (tmp_path / "c.wav").exists(), "a refused call leaves no file behind"
