"""`kaiwa bench lm`: figures fit together, peers are read with distrust, errors say what to do."""

from __future__ import annotations

import json
import stat
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kaiwa import _native
from kaiwa.bench import bandwidth, lm, lm_measure, lm_model, lm_peer, lm_report
from kaiwa.bench.lm_measure import WARM_UP, Plan
from kaiwa.errors import DeviceError

CONTEXT = 30


class SlowStream:
    """Steps that take a known time per slot, more with history, and remember what they got."""

    def __init__(self, slots: int) -> None:
        self.slots, self.position = slots, 0
        self.state_bytes = 0
        self.codes: list[NDArray[Any]] = []
        self.stage_seconds: dict[str, float] = {}
        self.text_logits = self.audio_logits = np.zeros((slots, 1), np.float32)

    def clear_stage_seconds(self) -> None:
        self.stage_seconds = {"attention": 0.0, "depth": 0.0}

    def prefill_silence(self, steps: int) -> None:
        assert steps > 0
        self.position += steps

    def step(self, user_codes: NDArray[Any], **_: Any) -> Any:
        assert user_codes.shape == (self.slots, 4)
        history = 1e-3 if self.position >= CONTEXT else 0
        # What a step takes is what is measured.
        time.sleep(self.slots * 1e-3 + history)
        self.position += 1
        self.state_bytes = self.slots * 100 * min(self.position, CONTEXT)
        self.codes.append(user_codes)
        for name in self.stage_seconds:
            self.stage_seconds[name] += 0.25e-3
        return SimpleNamespace()


class SlowModel:
    """What a stream is made of."""

    config: Mapping[str, Any] = {"context": CONTEXT}
    num_codebooks_in, card, weight_bytes = 4, 50, 10_000
    step_bytes = (("depth", 3_000), ("mlp_in", 4_000), ("depth", 1_000))

    def __init__(self) -> None:
        self.streams: list[SlowStream] = []

    def stream(self, slots: int = 1, **_: Any) -> SlowStream:
        self.streams.append(SlowStream(slots))
        return self.streams[-1]


def plan(**changes: Any) -> Plan:
    told: dict[str, Any] = {
        "formats": ("int8", "int4"),
        "slots": (1, 4),
        "steps": 3,
        "rounds": 2,
        "windows": ("short", "full"),
        "threads": 1,
    }
    return Plan(**{**told, **changes})


PEER = """\
#!{python}
import json, sys
given = dict(zip(sys.argv[2::2], sys.argv[3::2]))
steps, prefill = int(given["--steps"]), int(given["--prefill"])
{body}
print(json.dumps({{"peer": "moshi 0.0", "dtype": "q8_0", "avx2": True, "load_s": 0.5,
                  "step_ms": [50.0 if prefill == 30 else 20.0] * steps}}))
"""


def fake_peer(folder: Path, body: str = "", name: str = "peer") -> Path:
    """A program that answers like the real one; `body` runs before the answer."""
    program = folder / name
    program.write_text(PEER.format(python=sys.executable, body=body), encoding="utf-8")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    return path


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bandwidth that needs no second to measure: 2 MB a second."""
    monkeypatch.setattr(bandwidth, "_native", SimpleNamespace(read_bandwidth=lambda *_: 2e6))


def no_progress(_: int) -> None:
    """Nobody looks."""


@pytest.mark.usefixtures("quick")
def test_figures_fit_together(tmp_path: Path, file: Path) -> None:
    models: list[SlowModel] = []
    order: list[str] = []

    def load(kind: str) -> SlowModel:
        order.append(kind)
        models.append(SlowModel())
        return models[-1]

    peers = [lm_peer.Peer(fake_peer(tmp_path))]
    results = lm_measure.run(load, plan(), peers, file, 1000.0, no_progress)
    summary = lm.describe(plan(), results, model="x", kv=None)
    json.dumps(summary)

    assert order == ["int8", "int4", "int4", "int8"], "every turn loads; odd rounds turn round"
    assert [row["slots"] for row in summary["rows"]] == 2 * [1, 4, 1, 4]
    for row in summary["rows"]:
        # Sleeping takes at least as long as asked for.
        least = row["slots"] + (1 if row["window"] == "full" else 0)
        assert least <= row["step_ms"]["min"] <= row["step_ms"]["median"] <= row["step_ms"]["max"]
        if row["slots"] == 1:
            assert row["slot_cost"]["median"] == 1
            history = 100 * CONTEXT if row["window"] == "full" else 0
            assert row["bytes"] == 8_000 + history
            best = row["bytes"] / (row["step_ms"]["min"] * 1e-3)
            assert row["of_bandwidth"]["max"] == pytest.approx(best / 2e6)
            assert row["gb_s"]["max"] == pytest.approx(best / 1e9)
        else:
            assert "of_bandwidth" not in row
            times = results.own[row["kind"]].steps
            costs = [
                many / 4 / one
                for many, one in zip(
                    times[4, row["window"]].medians(),
                    times[1, row["window"]].medians(),
                    strict=True,
                )
            ]
            assert row["slot_cost"]["min"] == pytest.approx(min(costs))
            assert row["slot_cost"]["max"] == pytest.approx(max(costs))
        reached = CONTEXT if row["window"] == "full" else WARM_UP + 3
        assert row["state_bytes_per_slot"] == 100 * reached

    (peer,) = summary["peers"]
    assert peer["step_ms"]["short"]["median"] == 20
    assert peer["step_ms"]["full"]["median"] == 50, "a full window is asked of the peer"
    assert peer["peer"] == "moshi 0.0, q8_0 (AVX2)"
    mine = {(r["kind"], r["window"]): r["step_ms"] for r in summary["rows"] if r["slots"] == 1}
    for row in peer["ratios"]:
        ours = mine[row["kind"], row["window"]]
        theirs = peer["step_ms"][row["window"]]["median"]
        assert row["ratio"]["max"] == pytest.approx(theirs / ours["min"])
        assert row["ratio"]["min"] == pytest.approx(theirs / ours["max"])

    for part in summary["stages"]:
        sizes = {row["stage"]: row["bytes"] for row in part["parts"]}
        history = 100 * CONTEXT if part["window"] == "full" else 0
        assert sizes == {"attention": history, "depth": 4_000}
        spent = sum(row["ms"] for row in part["parts"])
        assert spent == pytest.approx(0.5)
        assert part["rest_ms"] == pytest.approx(part["step_ms"] - spent)

    assert {row["kind"] for row in summary["long"]} == {"int8", "int4"}
    for row in summary["long"]:
        early, late_times = (
            results.own[row["kind"]].long[at].medians()
            for at in (lm_measure.EARLY, lm_measure.LATE)
        )
        ratios = [b / a for a, b in zip(early, late_times, strict=True)]
        assert row["ratio"]["max"] == pytest.approx(max(ratios))
    late = [s for m in models for s in m.streams if s.position > lm_measure.EARLY]
    assert {s.position for s in late} == {lm_measure.LATE + WARM_UP + 3}
    assert summary["left_out"] == {}


@pytest.mark.usefixtures("quick")
def test_tables_show_every_figure(
    tmp_path: Path, file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    peers = [lm_peer.Peer(fake_peer(tmp_path))]
    small = plan(rounds=1, slots=(1, 2))
    results = lm_measure.run(lambda _: SlowModel(), small, peers, file, None, no_progress)
    results.left_out["a peer [native]"] = "it was tired"
    lm_report.show(lm.describe(small, results, model="x", kv="int8"))
    out = capfd.readouterr().out
    assert "…" not in out
    for words in (
        "One step, int4, full window",
        "moshi 0.0, q8_0 (AVX2)",
        "20.00 (20.00..20.00)",
        "ms at step 10000",
        "a peer [native]: left out, it was tired",
        "0.0 (0.0..0.0) GB/s",
    ):
        assert words in out, words


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("sys.exit('no such tensor\\nmore')", "exit code 1 (no such tensor)"),
        ("print('hello'); sys.exit()", "printed no times"),
        ("print(json.dumps({'load_s': 1, 'step_ms': []})); sys.exit()", "not positive"),
        ("print(json.dumps({'load_s': 1, 'step_ms': [0.0]})); sys.exit()", "not positive"),
        ("print(json.dumps({'load_s': 1, 'step_ms': 5})); sys.exit()", "printed no times"),
        ("print(json.dumps([1])); sys.exit()", "printed no times"),
        ("print(json.dumps({'load_s': 1})); sys.exit()", "printed no times"),
        ("sys.exit()", "printed no times"),
    ],
)
def test_a_peer_that_fails_is_left_out(tmp_path: Path, file: Path, body: str, words: str) -> None:
    program = fake_peer(tmp_path, body)
    peers = [lm_peer.Peer(program)]
    small = plan(rounds=1, windows=("short",), formats=("int8",))
    results = lm_measure.run(lambda _: SlowModel(), small, peers, file, None, no_progress)
    assert words in results.left_out[str(program)]
    assert results.peers == {}
    assert lm.describe(small, results, model="x", kv=None)["peers"] == []


@pytest.mark.usefixtures("quick")
def test_a_peer_needs_a_file_it_can_read(tmp_path: Path) -> None:
    program = fake_peer(tmp_path)
    small = plan(rounds=1, windows=("short",), formats=("int8",))
    results = lm_measure.run(
        lambda _: SlowModel(), small, [lm_peer.Peer(program)], None, None, no_progress
    )
    assert ".gguf" in results.left_out[str(program)]


@pytest.mark.usefixtures("quick")
def test_what_does_not_fit_in_memory_is_left_out(
    monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    monkeypatch.setattr(lm_model, "available_memory", lambda: 1_000_000_000)
    monkeypatch.setattr(lm_measure, "available_memory", lambda: 11_000)
    kinds = plan(formats=("bf16", "int4"), rounds=1)
    results = lm_measure.run(lambda _: SlowModel(), kinds, [], file, 1e9, no_progress)
    assert list(results.own) == ["int4"], "bf16 takes 2 GB, 1 GB is free"
    assert "needs about 2.0 GB of memory, 1.0 GB are free" in results.left_out["bf16"]
    # A full window of four slots takes 12 kB.
    assert "int4, 4 slots, full window" in results.left_out
    assert (4, "full") not in results.own["int4"].steps
    assert (4, "short") in results.own["int4"].steps


def test_the_user_says_the_same_to_everyone() -> None:
    model = SlowModel()
    one = lm_model.user_codes(model, 1, 9)
    assert one.tolist() == [[(9 * 31 + k * 17 + 7) % 50 for k in range(4)]]
    three = lm_model.user_codes(model, 3, 9)
    assert three[:1].tolist() == one.tolist()
    assert three[1].tolist() != three[0].tolist()


def test_stages_take_the_median_of_rounds() -> None:
    rounds = [{"a": 1e-3, "b": 5e-3}, {"a": 3e-3, "b": 5e-3}, {"a": 2e-3, "b": 0.0}]
    found = bandwidth.stages(rounds, [("a", 10), ("a", 30), ("attention", 7)], 99)
    assert [(s.name, s.ms, s.bytes) for s in found] == [("a", 2.0, 40), ("b", 5.0, 0)]
    assert found[0].rate == pytest.approx(40 / 2e-3)
    assert found[1].rate is None


def test_weights_are_counted_by_the_file(tmp_path: Path) -> None:
    assert lm_model.weights_in(tmp_path) is None
    (tmp_path / "model.safetensors").write_bytes(bytes(2000))
    assert lm_model.weights_in(tmp_path) == 1000
    (tmp_path / "model.gguf").write_bytes(bytes(340))
    assert lm_model.weights_in(tmp_path) == pytest.approx(320)
    assert lm_model.weights_in(tmp_path / "model.gguf") == pytest.approx(320)
    assert lm_peer.model_file(tmp_path) == tmp_path / "model.gguf"
    assert lm_peer.model_file(tmp_path / "model.safetensors") is None


Run = Callable[..., Any]


@pytest.mark.usefixtures("quick")
def test_the_command_measures_what_it_is_asked_for(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[tuple[str, str, str | None, str]] = []
    sizes: list[str] = []

    def synthesise(folder: Path, size: str) -> Path:
        folder.mkdir()
        (folder / "model.gguf").write_bytes(b"GGUF")
        sizes.append(size)
        return folder

    def load(source: Path, kind: str, kv: str | None, device: str) -> SlowModel:
        loaded.append((source.name, kind, kv, device))
        return SlowModel()

    monkeypatch.setattr(lm_model, "synthesise", synthesise)
    monkeypatch.setattr(lm_model, "load", load)
    given = ("--size", "1b", "--formats", "bf16", "--slots", "2", "--steps", 2, "--rounds", 1)
    more = ("--window", "short", "--kv", "int8", "--peer", fake_peer(tmp_path), "--json")
    outcome = run("bench", "lm", *given, *more, "--quiet")
    assert outcome.code == 0, outcome.err
    summary = json.loads(outcome.out)
    assert (sizes, loaded) == (["1b"], [("1b", "bf16", "int8", "cpu")])
    assert [(row["kind"], row["window"], row["slots"]) for row in summary["rows"]] == [
        ("bf16", "short", 1),
        ("bf16", "short", 2),
    ]
    assert (summary["steps"], summary["rounds"], summary["kv_dtype"]) == (2, 1, "int8")
    assert summary["peers"][0]["ratios"][0]["kind"] == "bf16"
    assert summary["long"] == []

    table = run("bench", "lm", *given, *more[:-1], "--quiet")
    assert table.code == 0
    assert "Peers at one slot" in table.out


def test_a_model_that_fits_nowhere_is_an_error(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    (tmp_path / "model.gguf").write_bytes(bytes(5000))
    monkeypatch.setattr(lm_model, "available_memory", lambda: 1000)
    outcome = run("bench", "lm", "--size", tmp_path, "--rounds", 1, "--quiet")
    assert outcome.code == 2
    assert "nothing could be measured" in outcome.error
    assert "smaller --size" in outcome.error


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--size", "2b"), "neither one of tiny, 300m, 1b, 7b, stt-tiny, stt-1b"),
        (("--formats", "int8,int3"), "unknown weight kind 'int3'"),
        (("--peer", "/nowhere/peer"), "scripts/build-peers"),
        (("--steps", "9000"), "at most 6497"),
    ],
)
def test_wrong_arguments(run: Run, args: tuple[str, ...], words: str) -> None:
    outcome = run("bench", "lm", *args)
    assert outcome.code == 2
    assert words in outcome.error


def test_bandwidth_is_positive() -> None:
    measured = bandwidth.Bandwidth()
    measured.rounds.append(_native.read_bandwidth(1 << 22, 0.01))
    assert measured.median is not None
    assert measured.median > 1e8


@pytest.mark.usefixtures("quick")
def test_on_another_device_there_is_no_read_bandwidth(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = plan(device="candle-cpu")
    results = lm_measure.run(lambda _: SlowModel(), told, [], file, 1000.0, no_progress)
    summary = lm.describe(told, results, model="x", kv=None)
    json.dumps(summary)
    assert (summary["device"], summary["read_gb_s"]) == ("candle-cpu", None)
    assert not any("of_bandwidth" in row for row in summary["rows"])
    assert {p["of_bandwidth"] for table in summary["stages"] for p in table["parts"]} == {None}
    lm_report.show(summary)
    shown = capsys.readouterr().out
    assert "device candle-cpu" in shown
    assert "measured with --device cpu only" in shown
    assert "% of bandwidth" not in shown


def test_slots_that_a_gpu_has_no_memory_for_are_left_out(file: Path) -> None:
    class Full(SlowModel):
        def stream(self, slots: int = 1, **_: Any) -> SlowStream:
            if slots > 1:
                raise DeviceError("4 slots do not fit; 1 does")
            return super().stream(slots)

    told = plan(device="cuda", formats=("int8",))
    results = lm_measure.run(lambda _: Full(), told, [], file, 1e15, no_progress)
    assert {slots for slots, _ in results.own["int8"].steps} == {1}
    assert set(results.left_out.values()) == {"4 slots do not fit; 1 does"}


def test_peers_run_on_the_processor_only(run: Callable[..., Any], tmp_path: Path) -> None:
    peer = str(fake_peer(tmp_path))
    failed = run("bench", "lm", "--size", "tiny", "--device", "candle-cpu", "--peer", peer)
    assert failed.code == 2
    assert "--peer with --device cpu only" in failed.err


@pytest.mark.usefixtures("quick")
def test_a_small_model_on_candles_operators(run: Callable[..., Any]) -> None:
    told = ("--size", "tiny", "--rounds", "1", "--steps", "2", "--slots", "2", "--window", "short")
    done = run("bench", "lm", *told, "--device", "candle-cpu", "--json")
    assert done.code == 0, done.err
    summary = json.loads(done.out)
    assert summary["device"] == "candle-cpu"
    assert not any("gb_s" in row for row in summary["rows"]), "nothing is said of what was read"
    assert [row["slots"] for row in summary["rows"]] == 2 * [1, 2]
