"""Pictures of benchmarks: every figure is drawn, with its name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kaiwa import plotting
from kaiwa.plotting import bench_lm, bench_mimi, bench_serve, output


def spread(middle: float) -> dict[str, float]:
    return {"median": middle, "min": 0.9 * middle, "max": 1.2 * middle}


def widths(axes: Any) -> list[float]:
    return [patch.get_width() for patch in axes.patches]


def names(axes: Any) -> list[str]:
    return [tick.get_text() for tick in axes.get_yticklabels()]


def words(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_mimi() -> None:
    rows = [("kaiwa", 1, 12.7), ("kaiwa", 8, 5.6), ("peer", 1, 90.6), ("peer", 8, 91.0)]
    summary = {
        **{"model": "m", "num_codebooks": 8, "dtype": "float32", "device": "cpu"},
        **{"kernels": "avx2", "threads": 2, "file_seconds": 60.0},
        "streams": [{"engine": e, "slots": n, "per_stream_ms": ms} for e, n, ms in rows],
        "files": [{"engine": "kaiwa", "encode_s": 2.0, "decode_s": 1.0}],
    }
    charts: list[Any] = bench_mimi.draw(summary).axes
    streams, files = charts
    lines = {str(line.get_label()): line for line in streams.lines}
    assert list(lines) == ["kaiwa", "peer", "80 ms, a frame"]
    assert np.column_stack(lines["peer"].get_data()).tolist() == [[1, 90.6], [8, 91.0]]
    assert widths(files) == [2.0, 1.0]
    assert words(files) == ["20x real time"]
    assert names(files) == ["kaiwa"]


def lm(**more: Any) -> dict[str, Any]:
    part = {"kind": "int8", "window": "short", "step_ms": 12.0, "rest_ms": 2.0}
    told = {
        **{"model": "m", "device": "cpu", "kernels": "avx2", "threads": 2},
        **{"kv_dtype": "default", "read_gb_s": spread(60.0)},
        "rows": [
            {**{"kind": "int8", "window": "short", "slots": 1, "step_ms": spread(12.0)},
             "of_bandwidth": spread(0.9)},
            {"kind": "int8", "window": "short", "slots": 8, "step_ms": spread(50.0)},
        ],
        "stages": [{**part, "parts": [{"stage": "mlp", "ms": 7.0}, {"stage": "depth", "ms": 3.0}]}],
        "peers": [{"peer": "p [x]", "step_ms": {"short": spread(25.0)}}],
    }  # fmt: skip
    return {**told, **more}


def test_lm() -> None:
    steps, stages = bench_lm.draw(lm()).axes
    assert widths(steps) == [12.0, 50.0, 25.0]
    assert names(steps) == [
        "int8, short window, 1 slot",
        "int8, short window, 8 slots",
        "p [x], short window",
    ]
    assert widths(stages) == [7.0, 3.0, 2.0]
    assert words(stages) == ["12 ms\n90 % of bandwidth"]


def test_lm_on_a_device_that_does_not_tell() -> None:
    bare = [{"kind": "int8", "window": "short", "step_ms": 9.0, "rest_ms": 9.0, "parts": []}]
    figure = bench_lm.draw(lm(read_gb_s=None, stages=bare, peers=[]))
    assert len(figure.axes) == 1


def test_serve() -> None:
    def row(half: float | None, most: float | None, fine: bool) -> dict[str, Any]:
        return {"latency_p50_ms": half, "latency_p99_ms": most, "in_time": fine}

    summary = {
        **{"of": "m, c", "device": "cpu", "carried": 1, "own_steps_allow": 2},
        "echo": {"50_calls": row(2.0, 8.0, True)},
        "model": {"2_calls": row(None, None, False), "1_calls": row(60.0, 120.0, True)},
        "own_step_ms": {"1": 14.0, "2": 40.5, "4": "no memory"},
    }
    figure = bench_serve.draw(summary, 40.0, 160.0)
    charts: list[Any] = figure.axes
    echo, model, steps = charts
    assert widths(echo) == [8.0, 2.0]
    assert widths(model) == [120.0, 60.0]
    assert names(model) == ["2 calls", "1 calls"]
    assert words(model) == ["no answer", "60, 120"]
    assert model.lines[0].get_xdata()[0] == 160.0
    assert np.column_stack(steps.lines[0].get_data()).tolist() == [[1, 14.0], [2, 40.5]]
    assert "1 call in time" in figure.texts[1].get_text()
    nothing = {**summary, "model": {}, "carried": 0, "own_steps_allow": 0}
    assert output.png(bench_serve.draw(nothing, 40.0, 160.0)).startswith(b"\x89PNG")


@pytest.mark.parametrize("ending", [".png", ".svg"])
def test_files_are_the_same_each_time(ending: str, tmp_path: Any) -> None:
    for name in ("a", "b"):
        plotting.save(bench_lm.draw(lm()), tmp_path / (name + ending))
    assert (tmp_path / f"a{ending}").read_bytes() == (tmp_path / f"b{ending}").read_bytes()
