"""The tables of `kaiwa bench lm` for people."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from kaiwa.bench.report import MIN_WIDTH, table


def show(summary: dict[str, Any]) -> None:
    """Prints what `kaiwa.bench.lm.describe` gives."""
    console = Console()
    console = Console(width=max(MIN_WIDTH, console.width))

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False)

    say(
        f"model {summary['model']}; keys and values: {summary['kv_dtype']}; "
        f"device {summary['device']}; kernels {summary['kernels']}, {summary['threads']} threads, "
        f"{summary['cores']} cores"
    )
    if summary["read_gb_s"]:
        say(f"read bandwidth of this machine: {_spread(summary['read_gb_s'])} GB/s")
    else:
        say("read bandwidth: measured with --device cpu only, so its columns are left out")
    console.print(_steps(summary))
    for part in summary["stages"]:
        if part["parts"]:
            console.print(_stages(part, known=bool(summary["read_gb_s"])))
    if summary["long"]:
        console.print(_long(summary))
    console.print(_loading(summary))
    if summary["peers"]:
        console.print(_peers(summary))
    for name, reason in summary["left_out"].items():
        say(f"{name}: left out, {reason}")
    say(
        "One machine, one run: ratios count, times do not travel. All figures are medians of "
        "rounds (min..max); a round's figure is the median of its steps."
    )


def _spread(value: dict[str, float] | None, digits: int = 1, scale: float = 1.0) -> str:
    """Median (min..max)."""
    if value is None:
        return ""
    middle, low, high = (scale * value[name] for name in ("median", "min", "max"))
    return f"{middle:.{digits}f} ({low:.{digits}f}..{high:.{digits}f})"


def _of_bandwidth(known: bool) -> list[str]:
    """The column's head, if there is one."""
    return ["% of bandwidth"] if known else []


def _steps(summary: dict[str, Any]) -> Table:
    """Steps of all slots, 80 ms of conversation each."""
    known = bool(summary["read_gb_s"])
    rows = table(
        f"Steps: {summary['steps']} in each of {summary['rounds']} rounds; a step is one frame "
        "(80 ms) of all slots",
        "weights",
        "window",
        "slots",
        "step ms",
        "cost per slot",
        *(["GB/s"] if known else []),
        *_of_bandwidth(known),
        "state MB/slot",
    )
    for row in summary["rows"]:
        rows.add_row(
            row["kind"],
            row["window"],
            str(row["slots"]),
            _spread(row["step_ms"], 2),
            _spread(row["slot_cost"], 2) if row["slots"] > 1 else "1",
            *(
                [_spread(row.get("gb_s")), _spread(row.get("of_bandwidth"), 0, 100)]
                if known
                else []
            ),
            f"{row['state_bytes_per_slot'] / 1e6:.1f}",
        )
    return rows


def _stages(part: dict[str, Any], *, known: bool) -> Table:
    """A step at one slot, taken apart."""
    rows = table(
        f"One step, {part['kind']}, {part['window']} window, one slot",
        "stage",
        "ms",
        "% of step",
        "MB read",
        "GB/s",
        *_of_bandwidth(known),
    )
    for row in part["parts"]:
        rate = row["gb_s"]
        rows.add_row(
            row["stage"],
            f"{row['ms']:.2f}",
            f"{100 * row['share']:.0f}",
            f"{row['bytes'] / 1e6:.1f}",
            "" if rate is None else f"{rate:.1f}",
            *(["" if rate is None else f"{100 * row['of_bandwidth']:.0f}"] if known else []),
        )
    rows.add_row("rest", f"{part['rest_ms']:.2f}", f"{100 * part['rest_ms'] / part['step_ms']:.0f}")
    return rows


def _long(summary: dict[str, Any]) -> Table:
    """The same conversation early and late."""
    first = summary["long"][0]
    rows = table(
        "A long conversation, one slot",
        "weights",
        f"ms at step {first['early']}",
        f"ms at step {first['late']}",
        "ratio",
    )
    for row in summary["long"]:
        rows.add_row(
            row["kind"],
            _spread(row["early_ms"], 2),
            _spread(row["late_ms"], 2),
            _spread(row["ratio"], 2),
        )
    return rows


def _loading(summary: dict[str, Any]) -> Table:
    """Loading and memory."""
    rows = table("Loading", "weights", "seconds", "MB in memory", "MB read a step")
    for kind, row in summary["kinds"].items():
        rows.add_row(
            kind,
            _spread(row["load_s"], 2),
            f"{row['weight_bytes'] / 1e6:.0f}",
            f"{row['step_bytes'] / 1e6:.0f}",
        )
    for row in summary["peers"]:
        rows.add_row(row["peer"], _spread(row["load_s"], 2), "", "")
    return rows


def _peers(summary: dict[str, Any]) -> Table:
    """Peers' times over Kaiwa's, the same rounds."""
    kinds = list(summary["kinds"])
    rows = table(
        "Peers at one slot; times slower than kaiwa with each kind of weights",
        "peer",
        "window",
        "step ms",
        *kinds,
    )
    for row in summary["peers"]:
        for window, step in row["step_ms"].items():
            found = {r["kind"]: r["ratio"] for r in row["ratios"] if r["window"] == window}
            cells = [_spread(found.get(kind)) for kind in kinds]
            rows.add_row(row["peer"], window, _spread(step, 2), *cells)
    return rows
