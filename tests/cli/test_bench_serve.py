"""`kaiwa bench serve`: which model on which device, and what is done where there is no room."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from kaiwa.bench import serve
from kaiwa.bench.serve import Served
from kaiwa.errors import DeviceError


def test_on_a_device_with_models_that_are_named(run: Callable[..., Any]) -> None:
    what = ("--device", "candle-cpu", "--model", "synth:tiny", "--mimi", "synth:small")
    most = ("--calls", 1, "--most", 1, "--seconds", 1, "--protocol", "kyutai,live,realtime,twilio")
    done = run("bench", "serve", *what, *most, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert (found["device"], found["of"]) == ("candle-cpu", "synth:tiny, synth:small")
    assert found["echo"]["1_calls"]["admitted"] == 1
    for row in ("live_1_calls", "realtime_1_calls", "twilio_1_calls"):
        assert found["echo"][row]["admitted"] == 1
        assert found["echo"][row]["server_cpu_per_call_percent"] > 0
    assert found["own_step_ms"]["1"] > 0
    assert found["carried"] in (0, 1)
    assert "kaiwa bench serve" not in done.err
    assert "model: synth:tiny, synth:small on candle-cpu" in done.err


def test_the_server_is_given_what_is_loaded_here() -> None:
    served = Served("synth:7b", "synth:full", "cuda:1", "int8")
    assert served.options() == (
        *("--model", "synth:7b", "--mimi", "synth:full", "--device", "cuda:1"),
        *("--quantize", "int8"),
    )
    parts = Served("synth:tiny", "synth:small", "candle-cpu", "int8").load()
    assert (parts.moshi.device, parts.mimi.device) == ("candle-cpu", "candle-cpu")
    assert math.isfinite(serve.own_cost(parts, 2, steps=1))


def test_slots_without_memory_are_not_carried(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, slots: int, **__: Any) -> Any:
        raise DeviceError(f"{slots} slots do not fit")

    parts = Served("synth:tiny", "synth:small", "cpu", None).load()
    monkeypatch.setattr("kaiwa.duplex.Duplex", full)
    assert serve.own_cost(parts, 2) == math.inf
    with pytest.raises(DeviceError, match="1 slots"):
        serve.own_cost(parts, 1)


def test_a_model_too_slow_for_one_call_carries_none() -> None:
    out: dict[str, Any] = {}
    assert serve.carried(Served("synth:tiny", "synth:small", "cpu", None), 1.0, 0, out) == 0
    assert out == {}
