"""Grafana's dashboards as code: `python tools/dashboards.py` writes deploy/grafana/dashboards.

A panel is a title, what it shows, and queries; everything else is the same for all. `$replica` is a
pattern of the instances shown, `$price` what a replica costs an hour, `$__rate_interval` Grafana's.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OUT = Path(__file__).parents[1] / "deploy" / "grafana" / "dashboards"
#: Seconds that a frame lasts, and those that a step may take while callers are let in.
FRAME, BUDGET = 0.08, 0.06


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        title: what it shows.
        queries: legend to PromQL.
        kind: `timeseries`, `stat` or `heatmap`.
        unit: Grafana's name of the unit.
        width: of 24 columns.
        limit: a line above which things are bad.
        about: shown at the panel's title.
    """

    title: str
    queries: dict[str, str]
    kind: str = "timeseries"
    unit: str = "short"
    width: int = 8
    limit: float | None = None
    about: str = ""


@dataclass(frozen=True)
class Dashboard:
    """One dashboard."""

    name: str
    title: str
    panels: list[Panel]
    #: Whether one replica is chosen instead of all.
    single: bool = False
    tags: list[str] = field(default_factory=lambda: ["kaiwa"])


def of(metric: str, more: str = "") -> str:
    """A metric of the replicas that are shown."""
    matchers = ", ".join(filter(None, ('instance=~"$replica"', more)))
    return f"{metric}{{{matchers}}}"


def _is(label: str, value: str) -> str:
    """A matcher."""
    return f'{label}="{value}"'


def rate(metric: str, more: str = "") -> str:
    """How fast a counter grows."""
    return f"rate({of(metric, more)}[$__rate_interval])"


def quantile(part: float, histogram: str, by: str = "", more: str = "") -> str:
    """A quantile of a histogram over all replicas that are shown."""
    labels = ", ".join(filter(None, ("le", by)))
    return f"histogram_quantile({part}, sum by ({labels}) ({rate(histogram + '_bucket', more)}))"


def quantiles(histogram: str) -> dict[str, str]:
    """The three that are looked at."""
    return {f"p{round(100 * q)}": quantile(q, histogram) for q in (0.5, 0.95, 0.99)}


#: Reasons for which a call ends that are nobody's wish.
FAULTS = ("error", "shed", "lost", "slow_consumer")

SERVICE = Dashboard(
    "service",
    "Kaiwa: service",
    [
        Panel("Replicas ready", {"ready": f"sum({of('kaiwa_ready')})"}, "stat", width=4),
        Panel(
            "Conversations",
            {"active": f"sum({of('kaiwa_conversations_active')})"},
            "stat",
            width=4,
        ),
        Panel("Waiting", {"queue": f"sum({of('kaiwa_queue_waiting')})"}, "stat", width=4),
        Panel(
            "Slots taken",
            {"taken": f"sum({of('kaiwa_conversations_active')}) / sum({of('kaiwa_slots_total')})"},
            "stat",
            "percentunit",
            width=4,
            limit=0.85,
        ),
        Panel(
            "Callers sent away, last hour",
            {
                "sent away": f"sum(increase({of('kaiwa_admission_rejected_total')}[1h]))"
                " or vector(0)"
            },
            "stat",
            width=4,
        ),
        Panel(
            "Replicas that drain",
            {"draining": f"sum({of('kaiwa_draining')})"},
            "stat",
            width=4,
        ),
        Panel(
            "Conversations and room",
            {
                "active": f"sum({of('kaiwa_conversations_active')})",
                "slots": f"sum({of('kaiwa_slots_total')})",
                "waiting": f"sum({of('kaiwa_queue_waiting')})",
            },
            width=12,
        ),
        Panel(
            "Begun and ended",
            {
                "begun": f"sum({rate('kaiwa_conversations_started_total')})",
                "ended: {{reason}}": f"sum by (reason) ({rate('kaiwa_conversations_ended_total')})",
            },
            unit="ops",
            width=12,
        ),
        Panel(
            "Callers sent away",
            {"{{reason}}": f"sum by (reason) ({rate('kaiwa_admission_rejected_total')})"},
            unit="ops",
            width=12,
            about="auth, origin and key limits are the callers'; full and overloaded are ours",
        ),
        Panel(
            "Errors: calls that a fault ended",
            {
                reason: f"sum({rate('kaiwa_conversations_ended_total', _is('reason', reason))})"
                " or vector(0)"
                for reason in FAULTS
            },
            unit="ops",
            width=12,
        ),
        Panel(
            "Wait for a slot",
            quantiles("kaiwa_handshake_wait_seconds"),
            unit="s",
            width=12,
        ),
        Panel(
            "Calls taken up again",
            {
                where: f"sum({rate('kaiwa_resumed_total', _is('where', where))}) or vector(0)"
                for where in ("here", "elsewhere", "nowhere")
            },
            unit="ops",
            width=12,
            about="here, through another replica (elsewhere), or too late (nowhere)",
        ),
    ],
)

REAL_TIME = Dashboard(
    "real-time",
    "Kaiwa: real time",
    [
        Panel(
            "Steps",
            {
                "{{le}}": "sum by (le) (increase("
                f"{of('kaiwa_step_duration_seconds_bucket')}[$__rate_interval]))"
            },
            "heatmap",
            "s",
            width=12,
            about="a frame lasts 0.08 s: what lies above is late",
        ),
        Panel(
            "Step time", quantiles("kaiwa_step_duration_seconds"), unit="s", width=12, limit=FRAME
        ),
        Panel(
            "Steps of more than 80 ms",
            {
                "share": f"sum({rate('kaiwa_deadline_missed_total')}) / "
                f"sum({rate('kaiwa_step_duration_seconds_count')})"
            },
            unit="percentunit",
            limit=0.01,
        ),
        Panel(
            "Conversations in a step",
            {
                "mean": f"sum({rate('kaiwa_step_batch_size_sum')}) / "
                f"sum({rate('kaiwa_step_batch_size_count')})",
                "p95": quantile(0.95, "kaiwa_step_batch_size"),
            },
        ),
        Panel(
            "Response latency",
            quantiles("kaiwa_frame_latency_seconds"),
            unit="s",
            about="from the last byte of a frame to its answer",
        ),
        Panel(
            "Response latency, without the step",
            quantiles("kaiwa_frame_overhead_seconds"),
            unit="s",
        ),
        Panel(
            "Where the time goes",
            {
                "{{op}}": f"sum by (op) ({rate('kaiwa_codec_duration_seconds_sum')}) / "
                f"sum by (op) ({rate('kaiwa_codec_duration_seconds_count')})"
            },
            unit="s",
            about="Mimi and the language model for a whole step, Opus for a frame of one caller",
        ),
        Panel(
            "Frames lost or made up",
            {
                "{{direction}}: {{kind}}": "sum by (direction, kind) ("
                + rate("kaiwa_frames_total", 'kind!="model"')
                + ")"
            },
            unit="ops",
        ),
        Panel("Frames that wait", {"p99": quantile(0.99, "kaiwa_input_backlog_frames")}, width=8),
        Panel(
            "Round trip to the callers",
            quantiles("kaiwa_ws_ping_rtt_seconds"),
            unit="s",
            about="a ping every 20 s; audio that waits in the connection is before it",
        ),
        Panel(
            "The server's own lateness",
            quantiles("kaiwa_event_loop_lag_seconds"),
            unit="s",
            limit=0.05,
        ),
    ],
)

#: Seconds of a step for each of its conversations.
COST = (
    f"scalar(sum({rate('kaiwa_step_duration_seconds_sum')}) / "
    f"sum({rate('kaiwa_step_batch_size_sum')}))"
)
#: What a minute of a call costs now, and how many minutes calls have.
MINUTE = (
    f"$price / 60 * count({of('kaiwa_slots_total')}) / "
    f"clamp_min(sum({of('kaiwa_conversations_active')}), 1)"
)
MINUTES = (
    f"(sum(increase({of('kaiwa_conversation_duration_seconds_sum')}[1h])) / "
    f"sum(increase({of('kaiwa_conversation_duration_seconds_count')}[1h])) / 60)"
)

CAPACITY = Dashboard(
    "capacity",
    "Kaiwa: capacity",
    [
        Panel(
            "Slots taken by replica",
            {
                "{{instance}}": f"sum by (instance) ({of('kaiwa_conversations_active')}) / "
                f"sum by (instance) ({of('kaiwa_slots_total')})"
            },
            unit="percentunit",
            width=12,
            limit=0.85,
        ),
        Panel(
            "Predicted step with one conversation more",
            {"{{instance}}": of("kaiwa_step_predicted_seconds")},
            unit="s",
            width=12,
            limit=BUDGET,
            about="above the budget (0.06 s) nobody is let in",
        ),
        Panel(
            "Predicted head-room",
            {
                "slots": f"sum({of('kaiwa_slots_total')})"
                f" - sum({of('kaiwa_conversations_active')})",
                "step time": "sum(clamp_min("
                f"({BUDGET} - {of('kaiwa_step_predicted_seconds')}) / {COST} + 1, 0))",
            },
            about="calls that would still fit: by free slots, and by the step time left below the "
            "budget when each takes what one takes now",
        ),
        Panel(
            "Step time of a conversation",
            {"seconds": f"vector({COST})"},
            unit="s",
            about="what one frame of one conversation costs of the engine's time",
        ),
        Panel(
            "Cost of a call",
            {"a minute": MINUTE, "a call": f"{MINUTE} * {MINUTES}"},
            about="in the coin of the price at the top, which is that of one replica for an hour; "
            "calls are as long as those that ended in the last hour; nobody there counts as one",
        ),
        Panel(
            "Engine busy",
            {"{{instance}}": f"sum by (instance) ({rate('kaiwa_step_duration_seconds_sum')})"},
            unit="percentunit",
        ),
        Panel("Memory", {"{{instance}}": of("kaiwa_resident_memory_bytes")}, unit="bytes"),
        Panel(
            "State of the conversations", {"{{instance}}": of("kaiwa_state_bytes")}, unit="bytes"
        ),
        Panel(
            "Bandwidth",
            {"{{direction}}": f"8 * sum by (direction) ({rate('kaiwa_ws_bytes_total')})"},
            unit="bps",
        ),
    ],
)

REPLICA = Dashboard(
    "replica",
    "Kaiwa: one replica",
    [
        Panel("Ready", {"ready": of("kaiwa_ready")}, "stat", width=4),
        Panel("Engine", {"steps": of("kaiwa_engine_up")}, "stat", width=4),
        Panel("Up for", {"uptime": of("kaiwa_uptime_seconds")}, "stat", "s", width=4),
        Panel("Version", {"{{version}} {{model}}": of("kaiwa_build_info")}, "stat", width=6),
        Panel(
            "Defects",
            {"panics": of("kaiwa_engine_panics_total")},
            "stat",
            width=3,
        ),
        Panel("Memory", {"memory": of("kaiwa_resident_memory_bytes")}, "stat", "bytes", width=3),
        Panel(
            "Conversations",
            {
                "active": of("kaiwa_conversations_active"),
                "slots": of("kaiwa_slots_total"),
                "waiting": of("kaiwa_queue_waiting"),
            },
            width=12,
        ),
        Panel(
            "Step time", quantiles("kaiwa_step_duration_seconds"), unit="s", width=12, limit=FRAME
        ),
        Panel("Response latency", quantiles("kaiwa_frame_latency_seconds"), unit="s"),
        Panel(
            "Frames",
            {"{{direction}}: {{kind}}": rate("kaiwa_frames_total")},
            unit="ops",
        ),
        Panel(
            "Ends",
            {"{{reason}}": rate("kaiwa_conversations_ended_total")},
            unit="ops",
        ),
        Panel(
            "Length of a conversation",
            quantiles("kaiwa_conversation_duration_seconds"),
            unit="s",
        ),
        Panel(
            "Messages",
            {"{{direction}}": rate("kaiwa_ws_messages_total")},
            unit="ops",
        ),
        Panel("Bad packets", {"bad": rate("kaiwa_opus_bad_packets_total")}, unit="ops"),
    ],
    single=True,
)

DASHBOARDS = (SERVICE, REAL_TIME, CAPACITY, REPLICA)

_SOURCE = {"type": "prometheus", "uid": "${source}"}


def _panel(number: int, panel: Panel, x: int, y: int, height: int) -> dict[str, Any]:
    """A panel in Grafana's form."""
    colour = {"mode": "palette-classic"} if panel.kind != "stat" else {"mode": "thresholds"}
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.limit is not None:
        steps.append({"color": "red", "value": panel.limit})
    custom: dict[str, Any] = {}
    if panel.kind == "timeseries":
        custom = {
            "fillOpacity": 8,
            "thresholdsStyle": {"mode": "line" if panel.limit is not None else "off"},
        }
    options: dict[str, Any] = {}
    if panel.kind == "heatmap":
        options = {
            "calculate": False,
            "yAxis": {"unit": panel.unit},
            "color": {"scheme": "Oranges"},
            "tooltip": {"mode": "single"},
        }
    if panel.kind == "stat" and any("{{" in legend for legend in panel.queries):
        options = {"textMode": "name"}
    return {
        "id": number,
        "title": panel.title,
        "description": panel.about,
        "type": panel.kind,
        "datasource": _SOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": height},
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0,
                "color": colour,
                "custom": custom,
                "thresholds": {"mode": "absolute", "steps": steps},
            },
            "overrides": [],
        },
        "options": options,
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": _SOURCE,
                "expr": expr,
                "legendFormat": legend,
                "format": "heatmap" if panel.kind == "heatmap" else "time_series",
            }
            for index, (legend, expr) in enumerate(panel.queries.items())
        ],
    }


def _variables(single: bool, priced: bool) -> list[dict[str, Any]]:
    """The choices at the top."""
    replica = {
        "name": "replica",
        "label": "Replica",
        "type": "query",
        "datasource": _SOURCE,
        "definition": "label_values(kaiwa_uptime_seconds, instance)",
        "query": {"query": "label_values(kaiwa_uptime_seconds, instance)", "refId": "R"},
        "refresh": 2,
        "sort": 1,
        "multi": not single,
        "includeAll": not single,
        "allValue": ".+",
    }
    if not single:
        replica["current"] = {"text": "All", "value": "$__all"}
    price = {
        "name": "price",
        "label": "Price of a replica's hour",
        "type": "textbox",
        "query": "2",
        "current": {"text": "2", "value": "2"},
    }
    source = {"name": "source", "label": "Source", "type": "datasource", "query": "prometheus"}
    return [source, replica, price] if priced else [source, replica]


def build(dashboard: Dashboard) -> dict[str, Any]:
    """A dashboard in Grafana's form; panels fill rows of 24 columns."""
    panels: list[dict[str, Any]] = []
    x = y = row = 0
    for panel in dashboard.panels:
        height = 4 if panel.kind == "stat" else 8
        if x + panel.width > 24:
            x, y, row = 0, y + row, 0
        panels.append(_panel(len(panels) + 1, panel, x, y, height))
        x, row = x + panel.width, max(row, height)
    priced = any(
        "$price" in query for panel in dashboard.panels for query in panel.queries.values()
    )
    return {
        "uid": f"kaiwa-{dashboard.name}",
        "title": dashboard.title,
        "tags": dashboard.tags,
        "schemaVersion": 39,
        "editable": True,
        "timezone": "browser",
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": _variables(dashboard.single, priced)},
        "annotations": {"list": []},
        "panels": panels,
    }


def files() -> dict[Path, str]:
    """Every dashboard as it is written."""
    return {
        OUT / f"{dashboard.name}.json": json.dumps(build(dashboard), indent=1) + "\n"
        for dashboard in DASHBOARDS
    }


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")
