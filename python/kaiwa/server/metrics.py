"""Prometheus metrics: what the engine counts, read when asked for, and what the server counts.

Every metric is a row of docs/metrics.md; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from kaiwa.server import memory

if TYPE_CHECKING:
    from kaiwa.engine import Engine
    from kaiwa.server.state import ServerState

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# Times of creation: a series each that nobody looks at.
disable_created_metrics()  # type: ignore[no-untyped-call]

_LAG = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5)
_PING = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 8)
_DURATION = (1, 5, 15, 30, 60, 120, 240, 360, 900, 3600)


class Metrics:
    """The server's own counters, and the registry of all."""

    def __init__(self, state: ServerState) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        own: dict[str, Any] = {"registry": self.registry}
        self.started = Counter(
            "kaiwa_conversations_started", "Conversations that got a slot.", ("protocol",), **own
        )
        self.ended = Counter(
            "kaiwa_conversations_ended",
            "Conversations that ended, by reason.",
            ("protocol", "reason"),
            **own,
        )
        self.rejected = Counter(
            "kaiwa_admission_rejected",
            "Callers that were sent away, by reason.",
            ("protocol", "reason"),
            **own,
        )
        self.duration = Histogram(
            "kaiwa_conversation_duration_seconds",
            "From slot to end.",
            ("protocol",),
            buckets=_DURATION,
            **own,
        )
        self.messages = Counter(
            "kaiwa_ws_messages", "Websocket messages.", ("protocol", "direction"), **own
        )
        self.bytes = Counter(
            "kaiwa_ws_bytes", "Bytes of websocket messages.", ("protocol", "direction"), **own
        )
        self.ping_rtt = Histogram(
            "kaiwa_ws_ping_rtt_seconds",
            "From a ping of the server to the client's answer; audio that waits is before it.",
            buckets=_PING,
            **own,
        )
        self.lag = Histogram(
            "kaiwa_event_loop_lag_seconds",
            "How late the event loop runs what is due.",
            buckets=_LAG,
            **own,
        )
        self.alone = Counter(
            "kaiwa_shared_state_unanswered",
            "Decisions without an answer of the shared state: tokens, limits.",
            ("what",),
            **own,
        )
        self.resumed = Counter(
            "kaiwa_resumed",
            "Resume tokens by where their call was: here, elsewhere, nowhere.",
            ("where",),
            **own,
        )
        self.registry.register(_EngineCollector(state))

    def text(self) -> bytes:
        """All metrics in Prometheus' text form."""
        return generate_latest(self.registry)


class _EngineCollector(Collector):
    """What the engine counts."""

    def __init__(self, state: ServerState) -> None:
        self._state = state

    def collect(self) -> Iterator[Metric]:
        """All families; without an engine only the gauges."""
        state = self._state
        engine = state.engine
        up = engine is not None and not state.stuck
        yield _gauge("kaiwa_engine_up", "1 while the engine is loaded and steps.", float(up))
        ready = float(state.readiness == "ready")
        yield _gauge("kaiwa_ready", "1 while one caller more would be taken.", ready)
        yield _gauge("kaiwa_draining", "1 while no new callers are taken.", float(state.draining))
        labels = ("version", "revision", "model")
        build = GaugeMetricFamily("kaiwa_build_info", "What runs.", labels=labels)
        from kaiwa import __version__, _native

        revision = _native.build_info()["revision"]
        build.add_metric((__version__, revision, engine.name if engine else ""), 1.0)
        yield build
        uptime = state.clock() - state.began
        yield _gauge("kaiwa_uptime_seconds", "Since the server began.", uptime)
        rss = memory.resident()
        if rss is not None:
            yield _gauge("kaiwa_resident_memory_bytes", "Memory of this process.", float(rss))
        yield from _shared(state)
        if engine is None:
            return
        readiness = engine.readiness
        active = GaugeMetricFamily(
            "kaiwa_conversations_active", "Conversations in slots.", labels=("protocol",)
        )
        active.add_metric(("kyutai",), readiness.slots_used)
        yield active
        yield _gauge("kaiwa_slots_total", "Conversations at once.", readiness.slots_total)
        yield _gauge("kaiwa_queue_waiting", "Callers waiting for a slot.", readiness.queue)
        yield _gauge(
            "kaiwa_step_predicted_seconds",
            "Expected 95th percentile of a step with one conversation more.",
            readiness.predicted_seconds,
        )
        yield _gauge("kaiwa_state_bytes", "Running state of all slots.", readiness.state_bytes)
        yield _gpu_memory(engine)
        stats = engine.stats()
        for name, what, key in (
            ("kaiwa_step_duration_seconds", "One step of all ready sessions.", "step"),
            ("kaiwa_step_batch_size", "Sessions in a step.", "batch"),
            ("kaiwa_frame_latency_seconds", "From a frame's last byte to its answer.", "latency"),
            (
                "kaiwa_frame_overhead_seconds",
                "The same less the step that made the answer.",
                "overhead",
            ),
            ("kaiwa_handshake_wait_seconds", "From request to slot.", "wait"),
            ("kaiwa_input_backlog_frames", "Frames left waiting at a step.", "backlog"),
        ):
            family = HistogramMetricFamily(name, what)
            _add(family, (), stats[key])
            yield family
        stages = HistogramMetricFamily(
            "kaiwa_codec_duration_seconds", "Parts of a step, and Opus.", labels=("op",)
        )
        for op, histogram in sorted(stats["stages"].items()):
            _add(stages, (op,), histogram)
        yield stages
        frames = CounterMetricFamily(
            "kaiwa_frames", "Frames of 80 ms, by what became of them.", labels=("direction", "kind")
        )
        frames.add_metric(("in", "model"), stats["frames_in"])
        frames.add_metric(("out", "model"), stats["frames_out"])
        frames.add_metric(("in", "inserted_silence"), stats["inserted_silence"])
        frames.add_metric(("in", "dropped_input"), stats["dropped_input"])
        frames.add_metric(("out", "dropped_output"), stats["dropped_output"])
        yield frames
        for name, what, key in (
            ("kaiwa_deadline_missed", "Steps of more than 80 ms.", "deadline_missed"),
            ("kaiwa_opus_bad_packets", "Opus packets that could not be decoded.", "bad_packets"),
            ("kaiwa_engine_panics", "Defects met in a step.", "panics"),
        ):
            counter = CounterMetricFamily(name, what)
            counter.add_metric((), stats[key])
            yield counter


def _shared(state: ServerState) -> Iterator[Metric]:
    """What is shared with other servers; nothing if there are none."""
    if state.shared is None:
        return
    redis = state.shared.redis
    yield _gauge("kaiwa_shared_state_up", "1 while Redis answers.", float(redis.up))
    failures = CounterMetricFamily("kaiwa_shared_state_failures", "Questions without an answer.")
    failures.add_metric((), redis.failures)
    yield failures
    passed_on = float(sum(c.forward is not None for c in state.connections))
    yield _gauge("kaiwa_calls_passed_on", "Calls that another server holds.", passed_on)


def _gpu_memory(engine: Engine) -> GaugeMetricFamily:
    """What the engine keeps on a GPU; nothing where it runs on the processor."""
    family = GaugeMetricFamily(
        "kaiwa_gpu_memory_bytes", "What the engine keeps on the GPU.", labels=("kind",)
    )
    moshi = engine.moshi
    on_gpu = moshi is not None and moshi.device != "cpu"
    weights = moshi.weight_bytes if moshi is not None and on_gpu else 0
    family.add_metric(("weights",), weights)
    family.add_metric(("state",), engine.readiness.state_bytes if on_gpu else 0)
    return family


def _gauge(name: str, what: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, what, value=value)


def _add(
    family: HistogramMetricFamily,
    labels: tuple[str, ...],
    histogram: tuple[list[float], list[int], float],
) -> None:
    """One histogram, cumulated as Prometheus wants it."""
    bounds, counts, total = histogram
    seen, buckets = 0, []
    for bound, count in zip([*map(repr, bounds), "+Inf"], counts, strict=True):
        seen += count
        buckets.append((bound, seen))
    family.add_metric(labels, buckets=buckets, sum_value=total)
