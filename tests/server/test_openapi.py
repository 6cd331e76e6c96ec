"""What the server says about its own HTTP routes, held to what they answer."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter
from tests.server.live import Live
from tests.server.wire import call

from kaiwa.server import schemas
from kaiwa.server.protocols.registry import PROTOCOLS


@pytest.fixture(scope="module")
def description(echo: Live) -> Any:
    answer = echo.ask("/openapi.json")
    assert answer.status == 200
    return answer.json


ROUTES = {
    ("get", "/healthz"),
    ("get", "/startupz"),
    ("get", "/readyz"),
    ("get", "/metrics"),
    ("get", "/v1/info"),
    ("post", "/v1/tokens"),
    ("get", "/v1/models"),
    ("get", "/v1/sessions"),
    ("delete", "/v1/sessions/{session_id}"),
    ("get", "/v1/stats"),
    ("get", "/api/chat"),
    ("get", "/v1/live/sessions"),
    ("get", "/v1/realtime"),
    ("post", "/v1/realtime/client_secrets"),
    ("post", "/v1/realtime/calls"),
    ("post", "/v1/realtime/calls/{call_id}/hangup"),
    ("get", "/api/build_info"),
    ("get", "/api/modules_info"),
    ("get", "/telephony/twilio"),
    ("post", "/telephony/twilio/voice"),
    ("get", "/telephony/telnyx"),
    ("get", "/telephony/plivo"),
    ("get", "/telephony/exotel"),
    ("get", "/api/asr-streaming"),
    ("post", "/v1/audio/transcriptions"),
}


def test_every_route_is_described_and_no_other(description: Any) -> None:
    described = {(m, path) for path, methods in description["paths"].items() for m in methods}
    assert described == ROUTES


def test_operations_have_names_of_their_own(description: Any) -> None:
    operations = [said for methods in description["paths"].values() for said in methods.values()]
    names = [said["operationId"] for said in operations]
    assert len(set(names)) == len(names)
    assert {"healthz", "stats", "kyutai_calls"} <= set(names)
    assert all(said["summary"] and said["description"] for said in operations)
    assert not any("422" in said["responses"] for said in operations)


def test_what_wants_a_key_says_so(description: Any) -> None:
    keyed = {
        (method, path)
        for path, methods in description["paths"].items()
        for method, said in methods.items()
        if "security" in said
    }
    # Calls tell by themselves how a key comes with them.
    calls = {("get", path) for protocol in PROTOCOLS for path in protocol.paths}
    assert keyed == {route for route in ROUTES if route[1].startswith("/v1/")} - calls - {
        ("get", "/v1/info")
    }
    assert description["components"]["securitySchemes"]["key"]["scheme"] == "bearer"


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("/healthz", schemas.Health),
        ("/readyz", schemas.Readiness),
        ("/v1/info", schemas.Info),
        ("/v1/models", schemas.ModelList),
        ("/v1/sessions", schemas.SessionList),
        ("/v1/stats", schemas.Stats),
        ("/nothing", schemas.Error),
    ],
)
async def test_answers_are_what_is_described(tiny: Live, path: str, model: type[BaseModel]) -> None:
    async with call(tiny.url(format="pcm", pace="none")) as chat:
        await chat.say(bytes(2 * 1920))
        await chat.frames(1)
        body = tiny.ask(path).json
    names = {name for name, field in model.model_fields.items() if field.is_required()}
    assert set(body) == names
    TypeAdapter(model).validate_python(body, strict=False, extra="forbid")


def test_the_page_of_routes_loads_nothing_from_elsewhere(echo: Live) -> None:
    page = echo.ask("/docs")
    assert page.status == 200
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert b"http://" not in page.body
    assert b"https://" not in page.body
    assert echo.ask("/docs", "HEAD").status == 200
