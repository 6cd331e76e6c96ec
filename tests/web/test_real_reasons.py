"""The real server is driven into each way to end or refuse a call, and the page says why."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from playwright.sync_api import Page, expect
from tests.server.live import At, Live, eventually, running
from tests.server.test_stop import _Stuck
from tests.server.wire import Call, call, pcm16, tone
from tests.web.conftest import in_a_thread
from tests.web.talking import press, state, title, until

from kaiwa import Engine
from kaiwa.cli.serve import load as load_engine
from kaiwa.reasons import REASONS
from kaiwa.server import key_edits
from kaiwa.server.settings import ServerSettings


class Told(NamedTuple):
    """What a browser sees of the end of a call."""

    code: int
    reason: str
    sentence: str


@asynccontextmanager
async def browser_call(server: At, begin: bool = True, **query: object) -> AsyncIterator[Call]:
    """A call as a page of the server makes it: refusals are told in messages and close frames."""
    origin: Any = f"http://127.0.0.1:{server.port}"
    async with call(server.url(**query), begin, origin=origin) as chat:
        yield chat


async def end_of(chat: Call) -> Told:
    code, reason = await chat.gone()
    assert len(chat.said) == 1, chat.said
    return Told(code, reason, chat.said[0])


async def refusal_of(server: At, **query: object) -> Told:
    async with browser_call(server, False, **query) as chat:
        return await end_of(chat)


def token(server: At, key: str) -> str:
    answer = server.ask("/v1/tokens", "POST", key)
    assert answer.status == 200, answer
    return str(answer.json["token"])


# ---- the ways ----------------------------------------------------------------------------------


async def expired(_: Path) -> Told:
    with running(max_seconds=0.3) as live:
        async with browser_call(live) as chat:
            return await end_of(chat)


async def idle(_: Path) -> Told:
    with running(idle_seconds=0.3) as live:
        async with browser_call(live) as chat:
            return await end_of(chat)


async def closed(_: Path) -> Told:
    with running() as live:
        async with browser_call(live, begin=False) as chat:
            session = (await chat.begin())["session_id"]
            assert live.ask(f"/v1/sessions/{session}", "DELETE").status == 204
            return await end_of(chat)


async def garbage(_: Path) -> Told:
    with running() as live:
        async with browser_call(live) as chat:
            for _message in range(100):
                await chat.send(9)
            return await end_of(chat)


async def input_too_fast(_: Path) -> Told:
    with running() as live:
        async with browser_call(live, format="pcm") as chat:
            with contextlib.suppress(Exception):
                for _message in range(100):
                    await chat.say(bytes(15_360))
            return await end_of(chat)


async def drain(_: Path) -> Told:
    with running(drain_seconds=0) as live:
        async with browser_call(live) as chat:
            live.drain()
            return await end_of(chat)


async def draining(_: Path) -> Told:
    with running(drain_seconds=10) as live:
        async with browser_call(live):
            live.drain()
            await eventually(lambda: live.state.draining)
            return await refusal_of(live)


async def starting(_: Path) -> Told:
    go = threading.Event()

    def load(settings: ServerSettings) -> Any:
        go.wait()
        return load_engine(settings)

    with running(load, loaded=False) as live:
        try:
            return await refusal_of(live)
        finally:
            go.set()
            await eventually(lambda: live.state.engine)


async def stuck(_: Path) -> Told:
    engine: Any = _Stuck()
    with running(lambda _: engine) as live:
        engine.silent = 6.0
        return await refusal_of(live)


async def wrong_model(_: Path) -> Told:
    engine: Any = _Stuck()
    engine.task = "transcription"
    with running(lambda _: engine) as live:
        return await refusal_of(live)


async def failed(_: Path) -> Told:
    def other(record: logging.LogRecord) -> bool:
        return "the engine has failed" not in record.getMessage()

    # The other server of these tests, in this process, must not take the error for its own.
    log = logging.getLogger("kaiwa.server")
    log.addFilter(other)
    try:
        with running(lambda _: Engine.echo(lost_after=0)) as live:
            async with browser_call(live, format="pcm", pace="none") as chat:
                await chat.say(pcm16(tone(1)))
                assert (await end_of(chat)).reason == "error"
            return await refusal_of(live)
    finally:
        log.removeFilter(other)


async def full(_: Path) -> Told:
    with running(slots=1, queue=0) as live:
        async with browser_call(live):
            return await refusal_of(live)


async def full_after_waiting(_: Path) -> Told:
    """From the engine, not from the door: there was a place in the queue, but no slot in time."""
    with running(slots=1, queue=1, queue_seconds=0.2) as live:
        async with browser_call(live):
            return await refusal_of(live)


async def bad_parameter(_: Path) -> Told:
    with running() as live:
        return await refusal_of(live, audio_topk="many")


def keyed(way: Callable[[Live, Path], Coroutine[Any, Any, Told]]) -> Callable[[Path], Any]:
    """A way on a server that asks for keys; the file of keys has one already."""

    async def run(path: Path) -> Told:
        file = path / "keys.json"
        key_edits.add(file, "somebody", time.time())
        with running(keys=str(file)) as live:
            return await way(live, file)

    return run


@keyed
async def revoked(live: Live, file: Path) -> Told:
    _, key = key_edits.add(file, "alice", time.time())
    async with browser_call(live, token=token(live, key)) as chat:
        key_edits.revoke(file, "alice", time.time())
        return await end_of(chat)


@keyed
async def key_concurrency(live: Live, file: Path) -> Told:
    _, key = key_edits.add(file, "alice", time.time(), concurrency=1)
    async with browser_call(live, token=token(live, key)):
        return await refusal_of(live, token=token(live, key))


@keyed
async def key_rate(live: Live, file: Path) -> Told:
    _, key = key_edits.add(file, "alice", time.time(), per_minute=1)
    async with browser_call(live, token=token(live, key)):
        pass
    return await refusal_of(live, token=token(live, key))


@keyed
async def no_key(live: Live, _: Path) -> Told:
    return await refusal_of(live)


@keyed
async def bad_token(live: Live, _: Path) -> Told:
    return await refusal_of(live, token="of-another-time")


@keyed
async def key_in_query(live: Live, file: Path) -> Told:
    _, key = key_edits.add(file, "alice", time.time())
    return await refusal_of(live, token=key)


@keyed
async def not_for_this_key(live: Live, file: Path) -> Told:
    _, key = key_edits.add(file, "alice", time.time(), protocols=["another"])
    return await refusal_of(live, token=token(live, key))


@keyed
async def bad_authorization(live: Live, _: Path) -> Told:
    """Browsers cannot send this header with a websocket, but a proxy before the server may."""
    origin: Any = f"http://127.0.0.1:{live.port}"
    headers = {"Authorization": "Basic abc"}
    async with call(live.url(), False, origin=origin, additional_headers=headers) as chat:
        return await end_of(chat)


@keyed
async def unknown_key(live: Live, _: Path) -> Told:
    origin: Any = f"http://127.0.0.1:{live.port}"
    headers = {"Authorization": "Bearer kw_unknown"}
    async with call(live.url(), False, origin=origin, additional_headers=headers) as chat:
        return await end_of(chat)


WAYS: dict[str, Callable[[Path], Any]] = {
    "expired": expired,
    "idle": idle,
    "closed": closed,
    "garbage": garbage,
    "input_too_fast": input_too_fast,
    "drain": drain,
    "draining": draining,
    "starting": starting,
    "failed": failed,
    "stuck": stuck,
    "full": full,
    "bad_parameter": bad_parameter,
    "revoked": revoked,
    "key_concurrency": key_concurrency,
    "key_rate": key_rate,
    "no_key": no_key,
    "bad_token": bad_token,
    "key_in_query": key_in_query,
    "not_for_this_key": not_for_this_key,
    "bad_authorization": bad_authorization,
    "unknown_key": unknown_key,
    "wrong_model": wrong_model,
}
#: What takes long, needs a second server or a defect, or is said without a close frame.
ELSEWHERE = {
    "client",  # silent
    "finished",  # silent
    "error",
    "flood",  # the close frame alone
    "host",  # an HTTP answer, also to browsers
    "key_expired",  # needs a key that has been good once
    "lost",
    "model_not_found",  # of OpenAI's protocols, which the page does not speak
    "not_held",
    "origin",  # an HTTP answer, also to browsers
    "overloaded",
    "session_start_timeout",  # of OpenAI's Live protocol
    "shared_state",
    "shed",
    "signature",  # of telephone providers
    "slow_consumer",
    "tokens",
    "voucher",
    "webrtc_missing",  # an HTTP answer to an offer
    "webrtc_unavailable",  # likewise
}


@pytest.fixture(scope="module")
def echo() -> Iterator[Live]:
    with running() as live:
        yield live


@pytest.fixture
def blank(page: Page, echo: Live) -> Page:
    """The page of a server, whose modules can be asked."""
    page.goto(f"http://127.0.0.1:{echo.port}/")
    return page


def verdict(page: Page, told: Told) -> dict[str, Any]:
    """What the page makes of the end of a call."""
    found: dict[str, Any] = page.evaluate(
        """async ([code, reason, said]) => {
            const { meaning, sentenceOf } = await import("/static/js/protocol.js");
            return meaning(code, reason, sentenceOf(said));
        }""",
        list(told),
    )
    return found


def as_sentence(said: str) -> str:
    """A message as the page shows it."""
    return said[0].upper() + said[1:] + ("" if said.endswith(".") else ".")


def test_every_reason_is_driven_or_said_why_not() -> None:
    assert set(WAYS) | ELSEWHERE == set(REASONS)
    assert not set(WAYS) & ELSEWHERE


@pytest.mark.parametrize("name", WAYS)
def test_the_page_says_why(blank: Page, tmp_path: Path, name: str) -> None:
    told, reason = in_a_thread(WAYS[name], tmp_path), REASONS[name]
    assert (told.code, told.reason) == (reason.close, name)
    shown = verdict(blank, told)
    assert shown == {
        "then": "again" if reason.kind in ("restarting", "starting") else "end",
        "kind": reason.kind,
        "title": reason.title,
        "detail": as_sentence(told.sentence),
    }


def test_a_caller_who_waited_in_vain_is_told(blank: Page, tmp_path: Path) -> None:
    told = in_a_thread(full_after_waiting, tmp_path)
    assert told[:2] == (1013, "full")
    assert verdict(blank, told)["title"] == "Server full"


def test_a_reason_without_a_sentence_has_one_in_the_page(blank: Page) -> None:
    for name, reason in REASONS.items():
        shown = verdict(blank, Told(reason.close, name, ""))
        assert shown["detail"] == as_sentence(reason.sentence)
        assert shown["title"] == reason.title


def test_a_close_of_something_else_has_words_too(blank: Page) -> None:
    """Of a proxy, of the websocket layer, or of no one at all."""
    codes = (1000, 1001, 1002, 1003, 1006, 1008, 1009, 1011, 1012, 1013, 4000)
    for code, reason in itertools.product(codes, ("", "constructor", "keepalive ping timeout")):
        shown = verdict(blank, Told(code, reason, ""))
        assert set(shown) == {"then", "kind", "title", "detail"}, code
        assert all(isinstance(value, str) for value in shown.values()), code
        assert shown["title"], code
        assert shown["then"] in ("end", "again", "resume"), code


def test_a_caller_with_a_key_is_told_what_is_wrong_with_it(page: Page, tmp_path: Path) -> None:
    """The whole way: the form, the token, the call, and what is shown."""
    file = tmp_path / "keys.json"
    _, key = key_edits.add(file, "alice", time.time(), concurrency=1)
    with running(keys=str(file)) as live, ThreadPoolExecutor(1) as pool:
        page.goto(f"http://127.0.0.1:{live.port}/")
        page.locator("#key").fill("kw_nobody")
        press(page)
        title(page, REASONS["unknown_key"].title)
        expect(page.locator("#detail")).to_contain_text("ask the operator")
        assert page.locator("#key").get_attribute("aria-invalid") == "true"

        taken, leave = threading.Event(), threading.Event()

        async def hold() -> None:
            async with browser_call(live, token=token(live, key)):
                taken.set()
                await asyncio.to_thread(leave.wait, 30)

        other = pool.submit(lambda: asyncio.run(hold()))
        assert taken.wait(10)
        page.locator("#key").fill(key)
        press(page)
        title(page, REASONS["key_concurrency"].title)
        expect(page.locator("#detail")).to_have_text(
            "The key alice allows 1 conversation at once; end one first."
        )
        leave.set()
        other.result(10)
        press(page)
        state(page, "active")
        until(page, "kaiwa.framesReceived > 3")
        key_edits.revoke(file, "alice", time.time())
        title(page, REASONS["revoked"].title)
        press(page)
        title(page, REASONS["revoked"].title)
        assert "undefined" not in page.inner_text("body")
