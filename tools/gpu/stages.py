"""The stages. Each gets what is asked for and a record that it writes as it goes."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tools.gpu import card, driver_calls, peer, timing
from tools.gpu.plan import Sizes
from tools.gpu.record import Record

ROOT = Path(__file__).resolve().parents[2]

#: Tests that take their devices from `KAIWA_TEST_DEVICES`.
TEST_FILES = ("test_devices.py", "test_golden.py", "test_variants.py", "test_moshi_configs.py")


@dataclass(frozen=True)
class Ask:
    """What a stage is asked to measure."""

    device: str
    sizes: Sizes

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.startswith("cuda")


def device(ask: Ask, record: Record) -> None:
    """Which card, driver and build; that a model can be loaded and stepped at all; and how fast
    the card copies and multiplies, which bounds everything after."""
    import kaiwa
    from kaiwa._native import build_info

    record.put(
        card=card.facts(),
        python=platform.python_version(),
        processors=os.cpu_count(),
        kaiwa=kaiwa.__version__,
        build={
            name: ", ".join(value) if isinstance(value, list) else str(value)
            for name, value in dict(build_info()).items()
        },
    )
    from tools.gpu import models

    moshi, mimi = models.load("tiny", "small", ask.device, "bf16")
    models.Caller(moshi, 2).step()
    mimi.stream(slots=2).encode(np.zeros((2, 1, mimi.frame_size), np.float32))
    record.put(opened={"moshi": moshi.device, "mimi": mimi.device})
    record.put(ceilings=peer.ceilings() if ask.on_gpu else {})


def tests(ask: Ask, record: Record) -> None:
    """The reference cases and the independence of slots, by pytest, on the device."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--no-header"]
    command += ["-c", str(ROOT / "tests" / "gpu.ini"), "--rootdir", str(ROOT)]
    command += [str(ROOT / "tests" / "native" / name) for name in TEST_FILES]
    environment = {**os.environ, "KAIWA_TEST_DEVICES": ask.device}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    said = done.stdout + done.stderr
    counts = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|error|skipped)", said)}
    failures = re.findall(r"^(?:FAILED|ERROR) (.*)$", said, re.M)
    record.put(counts=counts, failures=failures[:50], output=said[-6000:], status=done.returncode)
    if done.returncode:
        raise RuntimeError(f"{counts or 'no'} tests; the first: {(failures or [said[-300:]])[0]}")


def lm(ask: Ask, record: Record) -> None:
    """Steps of the language model by format, batch and length of the conversation."""
    from tools.gpu import models

    for form in ("q8", "bf16", "q4"):
        began = time.perf_counter()
        moshi, _ = models.load(ask.sizes.model, ask.sizes.codec, ask.device, form)
        record.row(
            "loads",
            format=form,
            seconds=round(time.perf_counter() - began, 2),
            weight_bytes=moshi.weight_bytes,
        )
        for slots in ask.sizes.slots:
            for window in ("short", "full"):
                fill = moshi.context if window == "full" else 0
                row: dict[str, Any] = {"format": form, "slots": slots, "window": window}
                try:
                    caller = models.Caller(moshi, slots, fill=fill)
                    times = timing.milliseconds(caller.step, ask.sizes.steps)
                    row["step_ms"] = timing.summary(times)
                    row["state_bytes_per_slot"] = caller.stream.state_bytes // slots
                    del caller
                except Exception as error:  # out of memory, say: the other rows still count
                    row["error"] = str(error)[:300]
                record.row("rows", **row)
        del moshi


def independence(ask: Ask, record: Record) -> None:
    """Whether a conversation's tokens and logits depend on its neighbours, on the batch, or on
    which slots are active; and whether two runs agree."""
    from tools.gpu import models

    moshi, _ = models.load(ask.sizes.model, ask.sizes.codec, ask.device, "q8")
    most = max(ask.sizes.slots)
    frames = models.codes(24, most, moshi.num_codebooks_in, moshi.card)

    def run(slots: int, mine: int, active: list[int]) -> tuple[Any, Any, Any]:
        stream = moshi.stream(slots, seed=[1 if s == mine else 50 + s for s in range(slots)])
        mask = np.zeros(slots, bool)
        mask[active] = True
        text, audio, logits = [], [], []
        for frame in frames:
            given = frame[:slots].copy()
            given[mine] = frame[0]
            out = stream.step(given, mask)
            text.append(out.step_text_tokens[mine])
            audio.append(out.step_audio_tokens[mine])
            logits.append(stream.text_logits[mine])
        return np.array(text), np.array(audio), np.array(logits)

    alone = run(1, 0, [0])
    cases = {
        "again alone": (1, 0, [0]),
        "in a batch of all": (most, most - 1, list(range(most))),
        "every second slot": (most, most - 2, list(range(0, most, 2))),
        "alone among idle slots": (most, most // 2, [most // 2]),
    }
    for name, case in cases.items():
        other = run(*case)
        apart = np.abs(other[2] - alone[2]).max(axis=1)
        record.row(
            "rows",
            case=name,
            tokens_equal=all(
                bool((a == b).all()) for a, b in zip(alone[:2], other[:2], strict=True)
            ),
            bits_equal=bool((alone[2] == other[2]).all()),
            first_logits_apart=float(apart[0]),
        )


def memory(ask: Ask, record: Record) -> None:
    """What a slot takes, and that neither memory nor time grows over a long conversation."""
    from tools.gpu import models

    moshi, _ = models.load(ask.sizes.model, ask.sizes.codec, ask.device, "q8")
    record.put(card_mib_with_weights=card.used_mib(), weight_bytes=moshi.weight_bytes)
    slots = min(8, max(ask.sizes.slots))
    caller = models.Caller(moshi, slots, fill=moshi.context)
    before = timing.milliseconds(caller.step, ask.sizes.steps // 2)
    used = card.used_mib()
    record.put(slots=slots, card_mib_with_slots=used, state_bytes=caller.stream.state_bytes)
    for _ in range(ask.sizes.long_steps):
        caller.step()
    after = timing.milliseconds(caller.step, ask.sizes.steps // 2)
    now = card.used_mib()
    record.put(
        steps=ask.sizes.long_steps,
        step_ms_before=timing.summary(before),
        step_ms_after=timing.summary(after),
        card_mib_after=now,
        state_bytes_after=caller.stream.state_bytes,
    )


def mimi(ask: Ask, record: Record) -> None:
    """Encoding and decoding of a frame, by batch."""
    from tools.gpu import models

    _, codec = models.load("tiny", ask.sizes.codec, ask.device, "bf16")
    for slots in ask.sizes.slots:
        stream = codec.stream(slots=slots)
        rng = np.random.default_rng(slots)
        pcm = (rng.standard_normal((slots, 1, codec.frame_size)) * 0.1).astype(np.float32)
        codes = stream.encode(pcm)
        encode = timing.milliseconds(partial(stream.encode, pcm), ask.sizes.steps)
        decode = timing.milliseconds(partial(stream.decode, codes), ask.sizes.steps)
        both = [a + b for a, b in zip(encode, decode, strict=True)]
        record.row(
            "rows",
            slots=slots,
            encode_ms=timing.summary(encode),
            decode_ms=timing.summary(decode),
            both_ms=timing.summary(both),
        )


def engine(ask: Ask, record: Record) -> None:
    """Calls in real time through the engine: are all answered, and how long do steps take?"""
    import kaiwa
    from tools.gpu import models

    moshi, codec = models.load(ask.sizes.model, ask.sizes.codec, ask.device, "q8")
    rng = np.random.default_rng(3)
    for calls in ask.sizes.engine_calls:
        with kaiwa.Engine(moshi, mimi=codec, slots=calls, step_budget=None) as running:
            requests = [running.session(seed=n, pace="realtime") for n in range(calls)]
            sessions = [request.__enter__() for request in requests]
            frames = round(ask.sizes.engine_seconds / 0.08)
            voice = (rng.standard_normal((frames, 1920)) * 0.1).astype(np.float32)
            began = time.perf_counter()
            for number, frame in enumerate(voice):
                for session in sessions:
                    session.send(frame)
                time.sleep(max(0.0, began + 0.08 * (number + 1) - time.perf_counter()))
            time.sleep(0.3)
            infos = [session.info() for session in sessions]
            record.row(
                "rows",
                calls=calls,
                frames_sent=frames * calls,
                frames_answered=sum(_field(info, "frames_out") for info in infos),
                dropped_input=sum(_field(info, "dropped_input") for info in infos),
                step_p95_ms=round(1e3 * running.readiness.step_p95_seconds, 3),
            )
            for request in requests:
                request.__exit__(None, None, None)


def _field(info: Any, name: str) -> int:
    return int(info[name] if isinstance(info, dict) else getattr(info, name))


def profile(ask: Ask, record: Record) -> None:
    """Launches, copies and waits of a frame, counted at the border of the driver."""
    from tools.gpu import models

    if not driver_calls.available():
        record.put(note="no counting library is loaded; scripts/gpu/build makes it")
        if ask.on_gpu:
            raise RuntimeError("the counting library is not loaded")
        return
    moshi, codec = models.load(ask.sizes.model, ask.sizes.codec, ask.device, "bf16")
    for slots in (1, min(8, max(ask.sizes.slots))):
        caller = models.Caller(moshi, slots)
        stream = codec.stream(slots=slots)
        pcm = np.full((slots, 1, codec.frame_size), 0.01, np.float32)
        codes = stream.encode(pcm)
        work: dict[str, Callable[[], object]] = {
            "lm": caller.step,
            "mimi_encode": partial(stream.encode, pcm),
            "mimi_decode": partial(stream.decode, codes),
        }
        for name, step in work.items():
            for _ in range(3):
                step()
            before = driver_calls.counts()
            for _ in range(10):
                step()
            after = driver_calls.counts()
            each = {key: (after[key] - before[key]) / 10 for key in after}
            record.row("rows", part=name, slots=slots, each_frame=each)


def compare(ask: Ask, record: Record) -> None:
    """PyTorch's package on the same card, with random weights of the same sizes."""
    peer.measure(ask.device, ask.sizes, record)


ALL = {
    "device": device,
    "tests": tests,
    "lm": lm,
    "independence": independence,
    "memory": memory,
    "mimi": mimi,
    "engine": engine,
    "peer": compare,
    "profile": profile,
}
