"""What Prometheus reads from the engine, the calls and the shared state, when it asks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from kaiwa import __version__, _native
from kaiwa.server import memory
from kaiwa.server.call.held import HeldCalls
from kaiwa.server.call.live import LiveCalls
from kaiwa.server.shared.state import SharedState
from kaiwa.server.state import ServerState


class ServerCollector(Collector):
    """Reads everything anew for each scrape."""

    def __init__(
        self,
        state: ServerState,
        live: LiveCalls,
        held: HeldCalls,
        shared: SharedState | None,
        protocols: Iterable[str],
    ) -> None:
        """Reads from these.

        Args:
            state: of the server.
            live: its calls with a connection.
            held: those that wait for their clients.
            shared: what all servers know; None if there is only this one.
            protocols: labels of the protocols that are spoken; each has a sample even without
                calls.
        """
        self._state = state
        self._live = live
        self._held = held
        self._shared = shared
        self._protocols = tuple(protocols)

    def collect(self) -> Iterator[Metric]:
        """All families; without an engine only the gauges."""
        state = self._state
        engine = state.engine
        up = engine is not None and state.fault is None
        yield _gauge("kaiwa_engine_up", "1 while the engine is loaded and steps.", float(up))
        ready = float(state.readiness == "ready")
        yield _gauge("kaiwa_ready", "1 while one caller more would be taken.", ready)
        yield _gauge("kaiwa_draining", "1 while no new callers are taken.", float(state.draining))
        labels = ("version", "revision", "model")
        build = GaugeMetricFamily("kaiwa_build_info", "What runs.", labels=labels)
        revision = _native.build_info()["revision"]
        build.add_metric((__version__, revision, engine.name if engine else ""), 1.0)
        yield build
        yield _gauge("kaiwa_uptime_seconds", "Since the server began.", state.uptime)
        rss = memory.resident()
        if rss is not None:
            yield _gauge("kaiwa_resident_memory_bytes", "Memory of this process.", float(rss))
        yield from self._collect_shared()
        if engine is None:
            return
        yield self._collect_active()
        yield from map(_forward, engine.metrics())

    def _collect_active(self) -> GaugeMetricFamily:
        """Calls that have a slot, by protocol; those that are held keep theirs."""
        family = GaugeMetricFamily(
            "kaiwa_conversations_active", "Conversations in slots.", labels=("protocol",)
        )
        active = Counter(call.protocol for call in self._live if call.active)
        active.update(call.protocol for call in self._held)
        for protocol in self._protocols:
            family.add_metric((protocol,), active[protocol])
        return family

    def _collect_shared(self) -> Iterator[Metric]:
        """What is shared with other servers; nothing if there are none."""
        if self._shared is None:
            return
        redis = self._shared.redis
        yield _gauge(
            "kaiwa_shared_state_up", "1 while Redis answers and takes writes.", float(redis.up)
        )
        failures = CounterMetricFamily(
            "kaiwa_shared_state_failures", "Questions without an answer."
        )
        failures.add_metric((), redis.failures)
        yield failures
        yield _gauge(
            "kaiwa_shared_clock_offset_seconds",
            "By how much Redis' clock is ahead of this machine's.",
            redis.clock_offset,
        )
        passed_on = float(sum(call.forwarded for call in self._live))
        yield _gauge("kaiwa_calls_passed_on", "Calls that another server holds.", passed_on)


def _gauge(name: str, what: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, what, value=value)


def _forward(family: _native.MetricFamily) -> Metric:
    """A metric of the engine, whatever it is."""
    metric = family.metric
    if metric.kind == "histogram":
        histograms = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        for sample in family.samples:
            assert sample.histogram is not None
            histograms.add_metric(sample.labels, _cumulated(sample.histogram), sample.histogram.sum)
        return histograms
    numbers: CounterMetricFamily | GaugeMetricFamily
    if metric.kind == "counter":
        name = metric.name.removesuffix("_total")
        numbers = CounterMetricFamily(name, metric.help, labels=metric.labels)
    else:
        numbers = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
    for sample in family.samples:
        assert sample.number is not None
        numbers.add_metric(sample.labels, sample.number)
    return numbers


def _cumulated(histogram: _native.Histogram) -> list[tuple[str, float]]:
    """Buckets as Prometheus wants them: each counts all smaller values, too."""
    bounds = [*map(repr, histogram.bounds), "+Inf"]
    return list(zip(bounds, accumulate(histogram.counts), strict=True))
