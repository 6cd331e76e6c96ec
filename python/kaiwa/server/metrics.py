"""What the server itself counts for Prometheus; `collector` adds what is read from the engine.

Every metric is a row of docs/metrics.md; a test compares the two.
"""

from __future__ import annotations

from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from kaiwa.server.refusal import Refused

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# Times of creation: a series each that nobody looks at.
disable_created_metrics()  # type: ignore[no-untyped-call]

_LAG = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5)
_PING = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 8)
_DURATION = (1, 5, 15, 30, 60, 120, 240, 360, 900, 3600)


class Metrics:
    """The server's own counters, and the registry of all."""

    def __init__(self) -> None:
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
        self.shared_unanswered = Counter(
            "kaiwa_shared_state_unanswered",
            "Decisions without an answer of the shared state: tokens, limits.",
            ("what",),
            **own,
        )
        self.connections_cut = Counter(
            "kaiwa_connections_cut",
            "Connections that the server cut off or did not take, by why.",
            ("why",),
            **own,
        )
        self.resumed = Counter(
            "kaiwa_resumed",
            "Resume tokens by where their call was: here, elsewhere, nowhere.",
            ("where",),
            **own,
        )

    def traffic(self, protocol: str) -> Traffic:
        """What counts the messages of one call."""
        return Traffic(self, protocol)

    def call_ended(self, protocol: str, reason: str, seconds: float) -> None:
        """Counts a call that had a slot for so many seconds."""
        self.ended.labels(protocol, reason).inc()
        self.duration.labels(protocol).observe(seconds)

    def call_refused(self, protocol: str, refused: Refused) -> None:
        """Counts a caller who was not let in."""
        self.rejected.labels(protocol, _rejection(refused)).inc()

    def connection_cut(self, why: str) -> None:
        """Counts a connection that was cut off or not taken."""
        self.connections_cut.labels(why).inc()

    def rejections(self) -> dict[str, int]:
        """Callers that were sent away, by reason."""
        counts: dict[str, int] = {}
        for family in self.rejected.collect():
            for sample in family.samples:
                if sample.name.endswith("_total"):
                    reason = sample.labels["reason"]
                    counts[reason] = counts.get(reason, 0) + int(sample.value)
        return counts

    def text(self) -> bytes:
        """All metrics in Prometheus' text form."""
        return generate_latest(self.registry)


class Traffic:
    """Counts the messages of one call, in both directions."""

    def __init__(self, metrics: Metrics, protocol: str) -> None:
        self._in = metrics.messages.labels(protocol, "in")
        self._in_size = metrics.bytes.labels(protocol, "in")
        self._out = metrics.messages.labels(protocol, "out")
        self._out_size = metrics.bytes.labels(protocol, "out")

    def received(self, message: bytes | str) -> None:
        """A message of the client."""
        self._in.inc()
        self._in_size.inc(len(message))

    def sent(self, message: bytes | str) -> None:
        """A message to it."""
        self._out.inc()
        self._out_size.inc(len(message))


def _rejection(refused: Refused) -> str:
    """Label of a refusal: its own word, or the word for its kind."""
    if refused.code in ("origin", "host"):
        return "origin"
    kinds = {400: "bad_request", 401: "auth", 403: "auth", 429: "key_limit"}
    return kinds.get(refused.status, refused.code)
