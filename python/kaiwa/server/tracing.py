"""Tracing by OpenTelemetry, an extra: a span for each connection of a call, sent by OTLP.

A span says what the log says: protocol, session, key, when the call was let in, when it began,
why it ended. It never holds what was said.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from kaiwa.errors import KaiwaError

#: Spans that may wait to be sent; more are lost, as OpenTelemetry does it.
MOST_WAITING = 2048


class CallSpan:
    """The span of a connection; without tracing it takes everything and does nothing."""

    def __init__(self, span: Any = None) -> None:
        self._span = span

    def set(self, **facts: Any) -> None:
        """Adds attributes, as `kaiwa.NAME`; what is None or empty is left out."""
        if self._span is not None:
            for name, fact in facts.items():
                if fact not in (None, ""):
                    self._span.set_attribute(f"kaiwa.{name}", fact)

    def event(self, name: str) -> None:
        """Something happened now."""
        if self._span is not None:
            self._span.add_event(name)


class Tracing:
    """Makes spans, and sends them from a thread of its own."""

    def __init__(self, endpoint: str | None, version: str) -> None:
        """Begins.

        Args:
            endpoint: where spans are sent (OTLP over HTTP); None makes none.
            version: of Kaiwa, as an attribute of all spans.

        Raises:
            KaiwaError: the packages are missing.
        """
        self._provider: Any = None
        self._tracer: Any = None
        if endpoint is None:
            return
        check()
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        about = Resource.create({"service.name": "kaiwa", "service.version": version})
        self._provider = TracerProvider(resource=about, shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=5)
        self._provider.add_span_processor(
            BatchSpanProcessor(exporter, max_queue_size=MOST_WAITING, export_timeout_millis=5000)
        )
        self._tracer = self._provider.get_tracer("kaiwa")

    @contextmanager
    def call(self, headers: Mapping[str, str]) -> Iterator[CallSpan]:
        """The span of a connection, which lasts as long as the block.

        Args:
            headers: of its request, by lower-case names. The client's or a proxy's `traceparent` is
                the span's parent.
        """
        if self._tracer is None:
            yield CallSpan()
            return
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        parent = TraceContextTextMapPropagator().extract(dict(headers))
        with self._tracer.start_as_current_span(
            "call", context=parent, kind=SpanKind.SERVER
        ) as span:
            yield CallSpan(span)

    def close(self) -> None:
        """Sends what waits, for some seconds at most, and ends."""
        if self._provider is not None:
            self._provider.shutdown()
            self._provider = self._tracer = None


def check() -> None:
    """Looks whether the packages are there.

    Raises:
        KaiwaError: they are not.
    """
    try:
        import opentelemetry.exporter.otlp.proto.http
        import opentelemetry.sdk.trace  # noqa: F401
    except ImportError:
        raise KaiwaError(
            "otlp_endpoint is given, and OpenTelemetry is not installed; run pip install "
            "'kaiwa[tracing]', or leave out --otlp-endpoint"
        ) from None
