"""Keys that are for some models or protocols only, on a running server."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from tests.server.conftest import MakeKey
from tests.server.live import running, wait_until
from tests.server.wire import call, refusal

from kaiwa.cli.serve import load as load_engine
from kaiwa.engine import Engine
from kaiwa.server.settings import ServerSettings


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize("limit", ["models", "protocols"])
async def test_a_key_that_is_for_something_else_gets_no_call(
    limit: str, key_path: Path, make_key: MakeKey
) -> None:
    good = {"models": "echo", "protocols": "kyutai"}[limit]
    fits = make_key("fits", **{limit: ("another", good)})
    other = make_key("other", **{limit: ("another",)})
    none = make_key("none", **{limit: ()})
    with running(keys=str(key_path)) as live:
        assert live.ask("/v1/models", key=fits).json["data"][0]["id"] == "echo"
        for key in (other, none):
            status, error, _ = await refusal(live.url(), **bearer(key))
            assert (status, error["code"]) == (403, "not_for_this_key")
            # A token of the key is no way around it.
            token = live.ask("/v1/tokens", "POST", key).json["token"]
            status, error, _ = await refusal(live.url(token=token))
            assert (status, error["code"]) == (403, "not_for_this_key")
        async with call(live.url(), additional_headers=bearer(fits)):
            assert live.engine.readiness.slots_used == 1
        token = live.ask("/v1/tokens", "POST", fits).json["token"]
        async with call(live.url(token=token)):
            pass


async def test_a_key_for_some_models_waits_until_the_model_is_known(
    key_path: Path, make_key: MakeKey
) -> None:
    key = make_key("other", models=("another",))
    go = threading.Event()

    def load(settings: ServerSettings) -> Engine:
        assert go.wait(30)
        return load_engine(settings)

    with running(load, loaded=False, keys=str(key_path)) as live:
        try:
            status, error, headers = await refusal(live.url(), **bearer(key))
            assert (status, error["code"], headers["retry-after"]) == (503, "starting", "5")
        finally:
            go.set()
        wait_until(lambda: live.state.engine is not None, "loaded")
        status, error, _ = await refusal(live.url(), **bearer(key))
        assert (status, error["code"]) == (403, "not_for_this_key")
