"""The report for people, made of the JSON alone: what was not run is said, not left out."""

from __future__ import annotations

from typing import Any

from tools.gpu.plan import STAGES

#: Milliseconds that a step of the full-size model shall take at most on an H100, by format, slots
#: and window.
GOALS = {
    ("bf16", 1, "short"): 12.0,
    ("q8", 1, "short"): 9.0,
    ("bf16", 8, "full"): 20.0,
    ("bf16", 32, "full"): 40.0,
    ("q8", 32, "full"): 28.0,
}


def table(heads: list[str], rows: list[list[Any]]) -> list[str]:
    """A Markdown table."""
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]


def markdown(result: dict[str, Any]) -> str:
    """The whole report."""
    device = result.get("device", {})
    card = device.get("card", {})
    where = card.get("name") or f"no GPU: {result['asked']}"
    lines = [
        f"Measured on {where}, {result['began']}, commit `{result['commit'][:12]}`, "
        f"sizes `{result['sizes']}`.",
        "",
    ]
    if card:
        lines.append(
            f"Driver {card.get('driver')}, compute capability {card.get('capability')}, "
            f"{card.get('memory_total_mib')} MiB. Built for "
            f"{device.get('build', {}).get('cuda', 'unknown')}."
        )
    for name, value in device.get("ceilings", {}).items():
        lines.append(f"- {name}: {value:.0f}")
    for stage in STAGES:
        lines += ["", f"## {stage.name}", ""]
        error = result["errors"].get(stage.name)
        if stage.name not in result:
            lines.append("Not run.")
            continue
        if error:
            lines += ["Failed:", "", "```", error, "```", ""]
        maker = _SECTIONS.get(stage.work)
        if maker is not None:
            lines += maker(result[stage.name])
            if stage.work == "lm" and result["sizes"] == "full":
                lines += _goals(result[stage.name])
    return "\n".join(lines) + "\n"


def _tests(found: dict[str, Any]) -> list[str]:
    counts = found.get("counts", {})
    lines = [", ".join(f"{number} {word}" for word, number in counts.items()) or "No counts."]
    return lines + [f"- `{name}`" for name in found.get("failures", [])]


def _lm(found: dict[str, Any]) -> list[str]:
    rows = []
    for row in found.get("rows", []):
        key = (row["format"], row["slots"], row["window"])
        times = row.get("step_ms")
        shown = [times[k] for k in ("median", "p95", "p99")] if times else [row["error"], "", ""]
        rows.append([*key, *shown])
    heads = ["format", "slots", "window", "median ms", "p95", "p99"]
    loads = [
        f"- loading {row['format']}: {row['seconds']} s, {row['weight_bytes'] / 1e9:.2f} GB"
        for row in found.get("loads", [])
    ]
    return [*table(heads, rows), "", *loads]


def _goals(found: dict[str, Any]) -> list[str]:
    """The steps that were aimed at, each with what it took."""
    medians = {
        (row["format"], row["slots"], row["window"]): row["step_ms"]["median"]
        for row in found.get("rows", [])
        if "step_ms" in row
    }
    rows = [[*key, medians.get(key, "not measured"), goal] for key, goal in GOALS.items()]
    return ["", *table(["format", "slots", "window", "median ms", "goal on an H100"], rows)]


def _independence(found: dict[str, Any]) -> list[str]:
    heads = ["case", "tokens equal", "bits equal", "logits apart at the first step"]
    keys = ("case", "tokens_equal", "bits_equal", "first_logits_apart")
    return table(heads, [[row[k] for k in keys] for row in found.get("rows", [])])


def _mimi(found: dict[str, Any]) -> list[str]:
    heads = ["slots", "encode ms", "decode ms", "both", "both p99"]
    rows = [
        [
            row["slots"],
            row["encode_ms"]["median"],
            row["decode_ms"]["median"],
            row["both_ms"]["median"],
            row["both_ms"]["p99"],
        ]
        for row in found.get("rows", [])
    ]
    return table(heads, rows)


def _plain(found: dict[str, Any]) -> list[str]:
    lines = []
    for name, value in found.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            flat = [_flat(row) for row in value]
            lines += [*table(list(flat[0]), [list(row.values()) for row in flat]), ""]
        else:
            lines.append(f"- {name}: {value}")
    return lines


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """A row with the median in place of a summary of times, and inner mappings as columns."""
    out: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, dict) and "median" in value:
            out[name] = value["median"]
        elif isinstance(value, dict):
            out.update(value)
        else:
            out[name] = value
    return out


_SECTIONS = {
    "tests": _tests,
    "lm": _lm,
    "independence": _independence,
    "memory": _plain,
    "mimi": _mimi,
    "engine": _plain,
    "peer": _plain,
    "profile": _plain,
}
