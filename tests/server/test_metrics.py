"""The metrics that the server has are those that docs/metrics.md tells of."""

from __future__ import annotations

import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from tests.server.live import Live, eventually, running, wait_until
from tests.server.wire import call

from kaiwa import Engine, _native
from kaiwa.server import metrics_page
from kaiwa.server.collector import ServerCollector

ROW = re.compile(r"^\| `(kaiwa_\w+)` \| (\w+) \| ([^|]*)\|", re.M)
PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def exposed(*registries: CollectorRegistry) -> dict[str, tuple[str, frozenset[str]]]:
    """Name as it is scraped, kind, labels. A family without a sample has no labels to show."""
    found = {}
    text = b"".join(map(generate_latest, registries)).decode()
    for family in text_string_to_metric_families(text):
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        found[name] = (family.type, frozenset(labels))
    return found


async def test_the_page_tells_of_every_metric_and_of_no_other(echo: Live) -> None:
    async with call(echo.url()):
        pass
    metrics = echo.parts.metrics
    await eventually(lambda: b"kaiwa_conversations_ended_total{" in metrics.text())
    metrics.rejected.labels("kyutai", "full").inc(0)
    metrics.shared_unanswered.labels("limits").inc(0)
    metrics.resumed.labels("here").inc(0)
    metrics.connections_cut.labels("flood").inc(0)
    # What is read from the engine, here with a shared state, which this server lacks.
    shared: Any = SimpleNamespace(redis=SimpleNamespace(up=True, failures=0, clock_offset=0.0))
    read = CollectorRegistry()
    parts = echo.parts
    read.register(ServerCollector(parts.state, parts.live, parts.held, shared, ["kyutai"]))
    told = {
        name: (kind, frozenset(label for label in labels.strip().split(", ") if label))
        for name, kind, labels in ROW.findall(PAGE.read_text(encoding="utf-8"))
    }
    assert told == exposed(metrics.registry, read)


def test_the_page_is_that_of_the_program() -> None:
    assert PAGE.read_text(encoding="utf-8") == metrics_page.markdown(), (
        "regenerate it: python -m kaiwa.server.metrics_page > docs/metrics.md"
    )


async def test_what_the_engine_gives_is_forwarded_whole(echo: Live) -> None:
    async with call(echo.url()):
        pass
    parts = echo.parts
    read = CollectorRegistry()
    read.register(ServerCollector(parts.state, parts.live, parts.held, None, ["kyutai"]))
    families = {
        family.name + ("_total" if family.type == "counter" else ""): family
        for family in text_string_to_metric_families(generate_latest(read).decode())
    }
    for metric in _native.ENGINE_METRICS:
        family = families[metric.name]
        assert family.type == metric.kind
        assert family.documentation == metric.help
        bounds = [
            sample.labels["le"] for sample in family.samples if sample.name.endswith("_bucket")
        ]
        assert set(bounds) == ({*map(repr, metric.buckets), "+Inf"} if metric.buckets else set())


def test_buckets_are_cumulated_and_counters_keep_their_labels() -> None:
    with Engine.echo(slots=1) as engine, engine.session() as session:
        session.send(np.zeros(3 * 1920, np.float32))
        session.finish()
        list(session)
        state: Any = SimpleNamespace(
            engine=engine, fault=None, readiness="ready", draining=False, uptime=1.0
        )
        calls: Any = ()
        read = CollectorRegistry()
        read.register(ServerCollector(state, calls, calls, None, []))
    value = read.get_sample_value
    assert value("kaiwa_step_batch_size_bucket", {"le": "1.0"}) == 3
    assert value("kaiwa_step_batch_size_bucket", {"le": "64.0"}) == 3
    assert value("kaiwa_step_batch_size_count") == 3
    assert value("kaiwa_step_batch_size_sum") == 3
    assert value("kaiwa_frames_total", {"direction": "out", "kind": "model"}) == 3
    assert value("kaiwa_slots_total") == 1


def test_the_lag_of_the_event_loop_counts_what_looks_after_the_calls() -> None:
    with running() as live:
        sweep = live.parts.held.sweep
        took: list[float] = []

        def slow() -> None:
            if not took:
                took.append(0.3)
                # What is tested is a loop that is blocked for so long.
                time.sleep(0.3)
            sweep()

        live.parts.held.sweep = slow  # type: ignore[method-assign]
        wait_until(lambda: took, "the watch has run")
        wait_until(lambda: live.metric("kaiwa_event_loop_lag_seconds_sum") >= 0.3, "it is seen")
