"""The bench's tables for people."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

#: Narrower than this the tables would lose their figures; wider than a terminal they wrap.
MIN_WIDTH = 124


def show(summary: dict[str, Any]) -> None:
    """Prints what `kaiwa.bench.mimi.describe` gives."""
    console = Console()
    console = Console(width=max(MIN_WIDTH, console.width))
    console.print(
        f"model {summary['model']}, {summary['dtype']}, {summary['num_codebooks']} codebooks, "
        f"device {summary['device']}, kernels {summary['kernels']}, {summary['threads']} threads, "
        f"{summary['cores']} cores",
        highlight=False,
    )
    console.print(_streams(summary))
    if any(row.get("one_by_one") for row in summary["streams"]):
        console.print(_one_by_one(summary))
    console.print(_files(summary))
    state = max(row.get("state_bytes_per_stream", 0) for row in summary["streams"])
    console.print(f"running state: {state / 1e6:.2f} MB per stream", highlight=False)
    for name, reason in summary["missing_peers"].items():
        console.print(f"{name}: left out, {reason}", highlight=False)
    console.print(
        "One machine, one run: ratios count, times do not travel. Ratios are peer over kaiwa, "
        "median of rounds (min..max). RTF is time over length: below 1 keeps up.",
        highlight=False,
    )


def table(title: str, *columns: str) -> Table:
    """A table whose first column is text and the others numbers."""
    table = Table(title=title, title_justify="left")
    for index, name in enumerate(columns):
        table.add_column(name, justify="left" if index == 0 else "right", no_wrap=True)
    return table


def _ratio(value: dict[str, float] | None) -> str:
    """A ratio with spread."""
    if not value:
        return ""
    return f"{value['median']:.1f}x ({value['min']:.1f}..{value['max']:.1f})"


def _streams(summary: dict[str, Any]) -> Table:
    """Streams stepped together, one frame of all slots at a time."""
    rows = table(
        f"Streams: {summary['frames']} frames of 80 ms, {summary['rounds']} rounds; "
        "a step is one frame of all slots",
        "engine",
        "slots",
        "encode ms (p90)",
        "decode ms (p90)",
        "ms/stream",
        "RTF",
        "streams/core",
        "ratio, same batch",
    )
    for row in summary["streams"]:
        encode, decode = row["encode_ms"], row["decode_ms"]
        rows.add_row(
            row["engine"],
            str(row["slots"]),
            f"{encode['median']:.2f} ({encode['p90']:.2f})",
            f"{decode['median']:.2f} ({decode['p90']:.2f})",
            f"{row['per_stream_ms']:.2f}",
            f"{row['real_time_factor']:.4f}",
            f"{row['streams_per_core']:.1f}",
            _ratio(row.get("ratio")),
        )
    return rows


def _one_by_one(summary: dict[str, Any]) -> Table:
    """Our batch against a peer that runs its streams one after another."""
    batches = [row for row in summary["streams"] if row.get("one_by_one")]
    names = list(batches[0]["one_by_one"])
    rows = table("Per stream, peers running their streams one by one", "kaiwa slots", *names)
    for row in batches:
        rows.add_row(str(row["slots"]), *(_ratio(row["one_by_one"][name]) for name in names))
    return rows


def _files(summary: dict[str, Any]) -> Table:
    """Whole signals."""
    rows = table(
        f"A file of {summary['file_seconds']:g} s at once",
        "engine",
        "encode s",
        "decode s",
        "RTF",
        "ratio",
    )
    for row in summary["files"]:
        rows.add_row(
            row["engine"],
            f"{row['encode_s']:.2f}",
            f"{row['decode_s']:.2f}",
            f"{row['real_time_factor']:.4f}",
            _ratio(row["ratio"]),
        )
    return rows
