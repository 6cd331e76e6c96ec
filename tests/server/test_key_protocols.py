"""A key that is for one wire protocol opens its door and no other."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.server.live import running
from tests.server.wire import refusal
from websockets.asyncio.client import connect

from kaiwa.server.protocols.registry import PROTOCOLS

from .conftest import MakeKey

#: Where calls are opened, by each protocol for models that speak. WebRTC's are opened by a request.
DOORS = [
    (protocol.name, path)
    for protocol in PROTOCOLS
    if protocol.task == "duplex"
    for path in protocol.paths
]


@pytest.mark.parametrize("name", [name for name, _ in DOORS])
async def test_a_key_for_one_protocol(name: str, key_path: Path, make_key: MakeKey) -> None:
    key = make_key("one", protocols=(name,))
    headers = {"Authorization": f"Bearer {key}"}
    with running(keys=str(key_path), slots=4) as live:
        for other, path in DOORS:
            url = f"ws://127.0.0.1:{live.port}{path}"
            if other != name:
                status, error, _ = await refusal(url, **headers)
                assert (status, error["code"]) == (403, "not_for_this_key"), other
                assert "ask the operator for one that is" in error["message"]
                continue
            async with connect(url, proxy=None, additional_headers=headers, close_timeout=1):
                pass
        assert live.ask("/v1/tokens", "POST", key=key).status == 200


async def test_a_dialect_belongs_to_its_protocol(key_path: Path, make_key: MakeKey) -> None:
    beta = {"OpenAI-Beta": "realtime=v1"}
    key, other = make_key("turns", protocols=("realtime",)), make_key("other", protocols=("live",))
    operator = make_key("operator", operator=True)
    with running(keys=str(key_path)) as live:
        url = f"ws://127.0.0.1:{live.port}/v1/realtime"
        headers = {"Authorization": f"Bearer {key}", **beta}
        async with connect(url, proxy=None, additional_headers=headers, close_timeout=1) as made:
            assert "session.created" in str(await made.recv())
            (row,) = live.ask("/v1/sessions", key=operator).json["sessions"]
            assert row["protocol"] == "realtime_beta"
        refused = {"Authorization": f"Bearer {other}", **beta}
        assert (await refusal(url, **refused))[0] == 403
