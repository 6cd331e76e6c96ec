"""The figures of `kaiwa bench lm` as a picture."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from kaiwa.plotting import chart, glyphs, style
from kaiwa.plotting.picture import Picture

#: Inches that each bar takes, and what stands above and below.
BAR, REST = 0.24, 2.6


def draw(summary: dict[str, Any]) -> Picture:
    """Steps by kind of weights, window and slots; and what a step at one slot consists of.

    Args:
        summary: as `kaiwa.bench.lm.describe` gives it.
    """
    bars = _bars(summary)
    parts = [part for part in summary["stages"] if part["parts"]]
    headings = ["A step of all slots", *(["A step at one slot, by stage"] if parts else [])]
    read = summary["read_gb_s"]
    facts = (
        f"{summary['model']}   ·   {summary['device']}, {summary['kernels']}, "
        f"{summary['threads']} threads   ·   keys and values: {summary['kv_dtype']}"
        + (f"   ·   memory reads {read['median']:.1f} GB/s" if read else "")
    )
    with style.drawn():
        height = max(chart.HEIGHT, REST + BAR * len(bars))
        figure, charts = chart.page("Language model", facts, headings, height=height)
        _steps(charts[0], bars)
        if parts:
            _stages(charts[1], parts, summary["rows"])
        return figure


def _bars(summary: dict[str, Any]) -> list[tuple[str, str, dict[str, float]]]:
    """Name, whose it is, and milliseconds of every measurement."""
    own = [
        (
            f"{row['kind']}, {row['window']} window, {_slots(row['slots'])}",
            row["kind"],
            row["step_ms"],
        )
        for row in summary["rows"]
    ]
    peers = [
        (f"{peer['peer']}, {window} window", peer["peer"], times)
        for peer in summary["peers"]
        for window, times in peer["step_ms"].items()
    ]
    return own + peers


def _slots(count: int) -> str:
    """A number of slots in words."""
    return f"{count} slot" + ("" if count == 1 else "s")


def _steps(axes: Axes, bars: list[tuple[str, str, dict[str, float]]]) -> None:
    """Medians over rounds, with the smallest and the largest."""
    colours = chart.series(list(dict.fromkeys(whose for _, whose, _ in bars)))
    middle = np.array([ms["median"] for _, _, ms in bars])
    spread = np.array([[ms["median"] - ms["min"], ms["max"] - ms["median"]] for _, _, ms in bars]).T
    rows = np.arange(len(bars))
    axes.barh(
        rows, middle, xerr=spread, height=0.62, color=[colours[whose] for _, whose, _ in bars],
        error_kw={"ecolor": style.INK, "elinewidth": 0.9, "capsize": 2},
    )  # fmt: skip
    for row, (value, more) in enumerate(zip(middle, spread[1], strict=True)):
        axes.annotate(
            f"{value:.3g}", (value + more, row), (4, 0), textcoords="offset points", va="center",
            size=style.SMALL, color=style.SOFT,
        )  # fmt: skip
    axes.set_yticks(rows, [glyphs.drawable(name) for name, _, _ in bars])
    axes.set_ylim(len(bars) - 0.4, -0.6)
    most = float((middle + spread[1]).max())
    if most > chart.FRAME_MS / 2:
        chart.frame_line(axes, across=False)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14))
    axes.set_xlim(0, 1.15 * max(most, chart.FRAME_MS if most > chart.FRAME_MS / 2 else 0))
    axes.set_xlabel("time (ms); whiskers: smallest and largest of the rounds")
    axes.grid(axis="x")


def _stages(axes: Axes, parts: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
    """Each stage's share, and how near the whole is to the memory's bandwidth."""
    stages = list(dict.fromkeys(row["stage"] for part in parts for row in part["parts"]))
    colours = {**chart.series(stages), "rest": style.LINE}
    near = {
        (row["kind"], row["window"]): row["of_bandwidth"]["median"]
        for row in rows
        if "of_bandwidth" in row
    }
    left = np.zeros(len(parts))
    for stage, colour in colours.items():
        ms = np.array([_of(part, stage) for part in parts])
        axes.barh(range(len(parts)), ms, height=0.55, left=left, color=colour, label=stage)
        left += ms
    for row, part in enumerate(parts):
        share = near.get((part["kind"], part["window"]))
        words = f"{left[row]:.3g} ms" + (
            "" if share is None else f"\n{100 * share:.0f} % of bandwidth"
        )
        axes.annotate(
            words, (left[row], row), (5, 0), textcoords="offset points", va="center",
            size=style.SMALL, color=style.SOFT,
        )  # fmt: skip
    axes.set_yticks(range(len(parts)), [f"{p['kind']}, {p['window']} window" for p in parts])
    axes.set_ylim(len(parts) - 0.4, -0.6)
    axes.set_xlim(0, 1.5 * float(left.max()))
    axes.set_xlabel("time (ms)")
    axes.grid(axis="x")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3)


def _of(part: dict[str, Any], stage: str) -> float:
    """Milliseconds of a stage; 0 if this step has none of it."""
    if stage == "rest":
        return max(0.0, float(part["rest_ms"]))
    return float(sum(row["ms"] for row in part["parts"] if row["stage"] == stage))
