"""Traces of calls, as a collector receives them."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from tests.server.conftest import MakeKey
from tests.server.live import running
from tests.server.wire import call, pcm16, refusal, tone

from kaiwa.errors import InputError, KaiwaError
from kaiwa.server import tracing
from kaiwa.server.settings import ServerSettings
from kaiwa.server.startup import check_startup


class Collector:
    """Takes what is sent by OTLP over HTTP."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                if self.path == "/v1/traces":
                    outer.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def spans(self) -> list[Any]:
        found = []
        for body in self.bodies:
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    found += scope.spans
        return found


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.server.shutdown()
    made.thread.join()
    made.server.server_close()


def facts(span: Any) -> dict[str, Any]:
    return {
        a.key: getattr(a.value, a.value.WhichOneof("value"))
        for a in span.attributes
        if a.key.startswith("kaiwa.")
    }


async def test_a_call_and_a_refusal(collector: Collector, key_path: Any, make_key: MakeKey) -> None:
    key = make_key("alice")
    headers = {
        "Authorization": f"Bearer {key}",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    with running(keys=str(key_path), otlp_endpoint=collector.address) as live:
        async with call(live.url(format="pcm"), additional_headers=headers) as made:
            await made.say(pcm16(tone(1)))
            await made.frames(1)
        assert (await refusal(live.url()))[0] == 401
    spans = {bool(facts(span).get("kaiwa.refused")): span for span in collector.spans()}
    call_span, refused = spans[False], spans[True]
    told = facts(call_span)
    assert {name: told[f"kaiwa.{name}"] for name in ("protocol", "key", "end_reason")} == {
        "protocol": "kyutai",
        "key": "alice",
        "end_reason": "client",
    }
    assert told["kaiwa.session"]
    assert [event.name for event in call_span.events] == ["admitted", "begins"]
    assert call_span.trace_id.hex() == "0af7651916cd43dd8448eb211c80319c"
    assert call_span.parent_span_id.hex() == "b7ad6b7169203331"
    assert facts(refused) == {"kaiwa.refused": "no_key", "kaiwa.protocol": "kyutai"}
    assert all(key.encode() not in body for body in collector.bodies)


def test_without_the_packages_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    settings = ServerSettings(otlp_endpoint="http://c:4318")
    with pytest.raises(KaiwaError, match=r"kaiwa\[tracing\]"):
        check_startup(settings)
    tracing.Tracing(None, "1").close()


@pytest.mark.parametrize("wrong", ["collector:4318", "ftp://c", "http://", "http://u:p@c"])
def test_what_is_no_address(wrong: str) -> None:
    with pytest.raises(InputError, match="otlp_endpoint is"):
        ServerSettings(otlp_endpoint=wrong)
