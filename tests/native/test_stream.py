"""Slots, threads and processes: what a slot gives depends on its own input only."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import kaiwa
from kaiwa.synth import voice, write_mimi

FRAME = 1920


@pytest.fixture(scope="module")
def mimi(tmp_path_factory: pytest.TempPathFactory) -> kaiwa.Mimi:
    """A model whose codes vary from frame to frame: those of the reference case hardly do."""
    folder = tmp_path_factory.mktemp("mimi") / "small"
    write_mimi(folder, size="small", seed=4)
    return kaiwa.Mimi.from_pretrained(folder, device="cpu", num_codebooks=12)


@pytest.fixture(scope="module")
def pcm() -> NDArray[np.float32]:
    return voice(4.4, seed=7)


def test_the_codes_of_this_model_vary(mimi: kaiwa.Mimi, pcm: NDArray[np.float32]) -> None:
    assert min(len(np.unique(row)) for row in mimi.encode(pcm)) > 10


def test_mixed_slots_equal_streams_alone(mimi: kaiwa.Mimi, pcm: NDArray[np.float32]) -> None:
    slots, steps = 4, 30
    rng = np.random.default_rng(5)
    active = rng.random((steps, slots)) < 0.7
    reset = rng.random((steps, slots)) < 0.1
    source = rng.integers(0, 50, (steps, slots))
    frames = np.stack([pcm[i * FRAME : (i + 1) * FRAME] for i in range(50)])
    batch = mimi.stream(slots)
    alone = [mimi.stream() for _ in range(slots)]
    for step in range(steps):
        batch.reset(np.flatnonzero(reset[step]))
        x = frames[source[step]][:, None]
        x[~active[step]] = np.nan
        codes = batch.encode(x, active[step])
        audio = batch.decode(codes, active[step])
        for s in range(slots):
            if reset[step, s]:
                alone[s].reset()
            if not active[step, s]:
                assert (codes[s] == -1).all()
                assert (audio[s] == 0).all()
                continue
            own = alone[s].encode(x[s : s + 1])
            np.testing.assert_array_equal(own[0], codes[s])
            np.testing.assert_array_equal(alone[s].decode(own)[0], audio[s])


MASKS: list[Any] = [[True, False], np.array([True, False]), (1, 0), np.array([1, 0])]


def test_masks_of_every_kind(mimi: kaiwa.Mimi, pcm: NDArray[np.float32]) -> None:
    x = np.stack([pcm[:FRAME], pcm[FRAME : 2 * FRAME]])[:, None]
    results = [mimi.stream(2).encode(x, mask) for mask in MASKS]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])
    assert (mimi.stream(2).encode(x, [False, False]) == -1).all()


def test_reset_forms(mimi: kaiwa.Mimi, pcm: NDArray[np.float32]) -> None:
    x = np.stack([pcm[: 4 * FRAME]] * 2)[:, None]
    stream = mimi.stream(2)
    first = stream.decode(stream.encode(x))
    second = stream.decode(stream.encode(x))
    assert (first != second).any(), "a stream has a memory"
    stream.reset(1)
    third = stream.decode(stream.encode(x))
    np.testing.assert_array_equal(third[1], first[1])
    assert (third[0] != first[0]).any()
    for argument in (None, [0, 1], np.array([0, 1])):
        stream.reset(argument)
        np.testing.assert_array_equal(stream.decode(stream.encode(x)), first)


def test_state_bytes_grow_with_slots(mimi: kaiwa.Mimi) -> None:
    assert mimi.stream(7).state_bytes == 7 * mimi.stream().state_bytes > 0
    assert mimi.stream(7).slots == 7


SCRIPT = """
import hashlib, json, sys, numpy as np, kaiwa
from safetensors.numpy import load_file
pcm = load_file(sys.argv[1] + "/expected.safetensors")["pcm"]
mimi = kaiwa.Mimi.from_pretrained(sys.argv[1], device="cpu")
stream = mimi.stream(2)
x = np.stack([pcm[: 40 * 1920], pcm[10 * 1920 : 50 * 1920]])[:, None]
codes = stream.encode(x)
audio = stream.decode(codes)
digest = lambda a: hashlib.sha256(np.ascontiguousarray(a)).hexdigest()
latent = mimi.encode_to_latent(pcm)
print(json.dumps([kaiwa._native.cpu_info(), digest(codes), digest(audio), digest(latent)]))
"""


def run(mimi_small: Path, **settings: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(mimi_small)],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_any_number_of_threads_gives_the_same_bits(mimi_small: Path) -> None:
    runs = [run(mimi_small, KAIWA_THREADS=n) for n in ("1", "2", "5", "2")]
    assert [r[0]["threads"] for r in runs] == [1, 2, 5, 2]
    assert len({json.dumps(r[1:]) for r in runs}) == 1


def test_kernels_are_chosen_at_run_time(mimi_small: Path) -> None:
    names = kaiwa._native.cpu_info()["available"]
    runs = {name: run(mimi_small, KAIWA_CPU=name) for name in names}
    assert all(result[0]["selected"] == name for name, result in runs.items())
    assert len({result[1] for result in runs.values()}) == 1, "codes are equal everywhere"
    fused = {result[2] for name, result in runs.items() if name.startswith("avx")}
    latents = {result[3] for name, result in runs.items() if name.startswith("avx")}
    assert len(fused) <= 1, "fused instruction sets share every bit"
    assert len(latents) <= 1


def test_calls_release_the_interpreter(mimi: kaiwa.Mimi, pcm: NDArray[np.float32]) -> None:
    """While one thread is inside a call that takes a second, this one goes on counting."""
    long = np.tile(pcm, 60)
    spans: list[float] = []

    def work() -> None:
        start = time.monotonic()
        mimi.encode(long)
        spans.append(time.monotonic() - start)

    thread = threading.Thread(target=work)
    thread.start()
    longest, last = 0.0, time.monotonic()
    while thread.is_alive():
        time.sleep(0)
        now = time.monotonic()
        longest, last = max(longest, now - last), now
    thread.join()
    assert longest < spans[0] / 2, "the interpreter was held for most of the call"


def test_threads_on_one_stream_wait_for_each_other(
    mimi: kaiwa.Mimi, pcm: NDArray[np.float32]
) -> None:
    stream = mimi.stream(2)
    x = np.stack([pcm[:FRAME]] * 2)[:, None]

    def work(slot: int) -> None:
        mask = [slot == 0, slot == 1]
        for _ in range(20):
            stream.decode(stream.encode(x, mask), mask)

    threads = [threading.Thread(target=work, args=(s,)) for s in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = mimi.stream(2)
    for _ in range(20):
        alone.decode(alone.encode(x))
    np.testing.assert_array_equal(stream.encode(x), alone.encode(x))


FORKED = """
import os, sys, numpy as np, kaiwa
mimi = kaiwa.Mimi.from_pretrained(sys.argv[1], device="cpu")
pcm = np.sin(np.arange(1920 * 20) / 20).astype(np.float32)
want = mimi.encode(pcm)
child = os.fork()
if child == 0:
    grandchild = os.fork()
    same = bool((mimi.encode(pcm) == want).all())
    if grandchild:
        same = same and os.waitpid(grandchild, 0)[1] == 0
    os._exit(0 if same else 1)
print(os.waitpid(child, 0)[1])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX processes")
def test_a_forked_child_has_threads_of_its_own(mimi_small: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED, str(mimi_small)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "0\n"


INTERRUPTED = """
import sys, threading, time, numpy as np, kaiwa
mimi = kaiwa.Mimi.from_pretrained(sys.argv[1], device="cpu")
pcm = np.zeros(24000 * 3600 * 2, np.float32)
before = time.process_time()
def tell():
    # Once it has computed for a while: it is in the middle of the call.
    while time.process_time() < before + 0.3:
        time.sleep(0.01)
    print("go", flush=True)
threading.Thread(target=tell, daemon=True).start()
mimi.encode(pcm)
print("finished", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_ends_a_whole_signal_call(mimi_small: Path) -> None:
    import signal

    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(mimi_small)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "go\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert "finished" not in out
    assert "KeyboardInterrupt" in err


def test_progress_and_its_exceptions(mimi: kaiwa.Mimi, pcm: NDArray[np.float32]) -> None:
    seen: list[tuple[int, int]] = []
    mimi.encode(pcm, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (55, 55)

    def stop(done: int, total: int) -> None:
        raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        mimi.decode(mimi.encode(pcm), progress=stop)


def test_digest_helper_sees_a_difference() -> None:
    """The equalities above compare digests; two different arrays must have different ones."""
    a, b = np.zeros(4, np.float32), np.array([0, 0, 0, 1e-30], np.float32)
    assert hashlib.sha256(a.tobytes()).digest() != hashlib.sha256(b.tobytes()).digest()
