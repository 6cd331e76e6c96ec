"""The figures of `kaiwa bench serve` as a picture."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from kaiwa.plotting import chart, glyphs, style
from kaiwa.plotting.picture import Picture


def draw(summary: dict[str, Any], echo_limit: float, model_limit: float) -> Picture:
    """Answers without and with a model, and the steps of codec and model alone.

    Args:
        summary: what `kaiwa bench serve --json` prints.
        echo_limit: milliseconds within which answers without a model are in time.
        model_limit: the same with a model.
    """
    with style.drawn():
        facts = f"{summary['of']} on {summary['device']}   ·   " + _carried(summary)
        headings = ("Answers without a model", "Answers with the model", "Codec and model alone")
        rows = max(len(summary["echo"]), len(summary["model"]))
        height = max(chart.HEIGHT, 2.4 + 0.34 * rows)
        figure, charts = chart.page("Server", facts, headings, height=height)
        _latencies(charts[0], summary["echo"], echo_limit)
        _latencies(charts[1], summary["model"], model_limit)
        _steps(charts[2], summary["own_step_ms"])
        return figure


def _carried(summary: dict[str, Any]) -> str:
    """How many calls were in time."""
    carried, allowed = summary["carried"], summary["own_steps_allow"]
    calls = "call" if carried == 1 else "calls"
    return f"{carried} {calls} in time, codec and model alone would allow {allowed}"


def _latencies(axes: Axes, rows: dict[str, dict[str, Any]], limit: float) -> None:
    """Half of the answers, and 99 of 100, come within so many milliseconds."""
    axes.axvline(limit, color=style.BAD, lw=0.9, ls=(0, (5, 3)), label=f"in time: {limit:g} ms")
    for number, row in enumerate(rows.values()):
        half, most = row["latency_p50_ms"], row["latency_p99_ms"]
        if half is None or most is None:
            words, at, colour = "no answer", 0.0, style.BAD
        else:
            colour = style.SOFT if row["in_time"] else style.BAD
            words, at = f"{half:.3g}, {most:.3g}", most
            first = "p99" if number == 0 else None
            axes.barh(number, most, height=0.56, color=style.CALLER, alpha=0.38, label=first)
            half_label = "p50" if number == 0 else None
            axes.barh(number, half, height=0.56, color=style.CALLER, label=half_label)
        axes.annotate(
            words, (at, number), (4, 0), textcoords="offset points", va="center",
            size=style.SMALL, color=colour,
            bbox={"facecolor": style.CARD, "edgecolor": "none", "pad": 0.8},
        )  # fmt: skip
    names = [glyphs.drawable(name.replace("_", " ")) for name in rows]
    axes.set_yticks(range(len(rows)), names)
    axes.set_ylim(max(len(rows), 1) - 0.4, -0.6)
    highest = max([limit, *(row["latency_p99_ms"] or 0.0 for row in rows.values())])
    axes.set_xlim(0, 1.3 * highest)
    axes.set_xlabel("latency of a frame (ms)")
    axes.grid(axis="x")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3)


def _steps(axes: Axes, costs: dict[str, float | str]) -> None:
    """Milliseconds of a step by the number of calls in it."""
    known = [(int(slots), ms) for slots, ms in costs.items() if isinstance(ms, (int, float))]
    axes.plot(
        [slots for slots, _ in known], [ms for _, ms in known], marker="o", markersize=4.5,
        color=style.MODEL, label="a step",
    )  # fmt: skip
    chart.frame_line(axes, across=True)
    highest = max([chart.FRAME_MS, *(ms for _, ms in known)])
    axes.set_ylim(0, 1.15 * highest)
    axes.margins(x=0.1)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.set_xlabel("calls in a step")
    axes.set_ylabel("time (ms)")
    axes.grid(axis="y")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
