"""The figures of `kaiwa bench mimi` as a picture."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from kaiwa.plotting import chart, glyphs, style
from kaiwa.plotting.picture import Picture


def draw(summary: dict[str, Any]) -> Picture:
    """Streams by the size of their batch, and a whole file.

    Args:
        summary: as `kaiwa.bench.mimi.describe` gives it.
    """
    with style.drawn():
        facts = (
            f"{summary['model']}   ·   {summary['num_codebooks']} codebooks, {summary['dtype']}   ·"
            f"   {summary['device']}, {summary['kernels']}, {summary['threads']} threads"
        )
        headings = (
            "Encoding and decoding 80 ms of a stream",
            f"A file of {summary['file_seconds']:g} s at once",
        )
        figure, (streams, files) = chart.page("Mimi", facts, headings)
        _streams(streams, summary["streams"])
        _files(files, summary["files"], summary["file_seconds"])
        return figure


def _streams(axes: Axes, rows: list[dict[str, Any]]) -> None:
    """Milliseconds of each stream, by how many are stepped together."""
    engines = list(dict.fromkeys(row["engine"] for row in rows))
    for name, colour in chart.series(engines).items():
        own = [row for row in rows if row["engine"] == name]
        x, y = [row["slots"] for row in own], [row["per_stream_ms"] for row in own]
        axes.plot(x, y, marker="o", markersize=4.5, color=colour, label=glyphs.drawable(name))
        for at, value in zip(x, y, strict=True):
            axes.annotate(
                f"{value:.3g}", (at, value), (0, 6), textcoords="offset points", ha="center",
                size=style.SMALL, color=colour,
            )  # fmt: skip
    if max(row["per_stream_ms"] for row in rows) > chart.FRAME_MS / 2:
        chart.frame_line(axes, across=True)
    slots = sorted({row["slots"] for row in rows})
    axes.set_xscale("log", base=2)
    axes.set_xticks(slots, [str(count) for count in slots])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(x=0.12)
    axes.set_ylim(0, axes.get_ylim()[1] * 1.08)
    axes.set_xlabel("streams in a batch")
    axes.set_ylabel("time a stream (ms)")
    axes.grid(axis="y")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3)


def _files(axes: Axes, rows: list[dict[str, Any]], length: float) -> None:
    """Seconds of encoding and of decoding."""
    names = [glyphs.drawable(row["engine"]) for row in rows]
    encode, decode = ([row[part] for row in rows] for part in ("encode_s", "decode_s"))
    axes.barh(names, encode, height=0.5, color=style.CALLER, label="encode")
    axes.barh(names, decode, height=0.5, left=encode, color=style.MODEL, label="decode")
    for row, (a, b) in enumerate(zip(encode, decode, strict=True)):
        axes.annotate(
            f"{length / (a + b):.3g}x real time", (a + b, row), (5, 0), va="center",
            textcoords="offset points", size=style.SMALL, color=style.SOFT,
        )  # fmt: skip
    axes.set_xlim(0, 1.35 * max(a + b for a, b in zip(encode, decode, strict=True)))
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel("time (s)")
    axes.grid(axis="x")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
