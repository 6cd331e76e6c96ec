"""The fake server is held to the real one: the same requests and calls get the same statuses,
headers, JSON shapes, kinds of messages, close codes and reasons from both."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.server.live import Answer, At, running
from tests.server.wire import AUDIO, ERROR, METADATA, PING, call, from_pcm16, pcm16, tone
from tests.web.conftest import in_a_thread
from tests.web.fake_server import FakeServer, Refusal, Script

from kaiwa.server import key_edits

#: Headers that the pages, browsers and caches act on.
HEADERS = (
    "cache-control",
    "content-security-policy",
    "content-type",
    "referrer-policy",
    "retry-after",
    "www-authenticate",
    "x-content-type-options",
)


def shape(value: Any) -> Any:
    """JSON without its values: names and types."""
    if isinstance(value, dict):
        return {name: shape(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, (int, float)):
        return "number"
    return type(value).__name__


@contextmanager
def fake(script: Script) -> Iterator[At]:
    server = FakeServer(script).start()
    try:
        yield At(server.port)
    finally:
        server.stop()


# ---- requests ----------------------------------------------------------------------------------


def compared(answer: Answer) -> dict[str, Any]:
    """What must be the same of two answers."""
    is_json = answer.headers.get("content-type") == "application/json"
    return {
        "status": answer.status,
        "headers": {name: answer.headers[name] for name in HEADERS if name in answer.headers},
        "body": shape(answer.json) if is_json else answer.body,
        "code": answer.json.get("error", {}).get("code") if is_json else None,
        "type": answer.json.get("error", {}).get("type") if is_json else None,
    }


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/ops"),
        ("GET", "/static/js/main.js"),
        ("GET", "/static/css/base.css"),
        ("GET", "/v1/info"),
        ("POST", "/v1/tokens"),
        ("DELETE", "/v1/sessions/999999"),
    ],
)
def test_requests_to_an_open_server(method: str, path: str) -> None:
    with running() as live, fake(Script()) as other:
        assert compared(live.ask(path, method)) == compared(other.ask(path, method))


def test_requests_to_a_server_that_asks_for_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    _, key = key_edits.add(file, "alice", time.time())
    _, boss = key_edits.add(file, "boss", time.time(), operator=True)
    script = Script(auth="key", keys=(key, boss), operator_key=boss)
    with running(keys=str(file)) as live, fake(script) as other:
        for method, path in (
            ("POST", "/v1/tokens"),
            ("GET", "/v1/stats"),
            ("DELETE", "/v1/sessions/999999"),
            ("GET", "/v1/info"),
        ):
            for who in (None, "kw_nobody", key, boss):
                if path == "/v1/stats" and who == boss:
                    continue  # it has calls in the one and none in the other: below
                answers = [compared(server.ask(path, method, who)) for server in (live, other)]
                assert answers[0] == answers[1], (method, path, who)


def test_statistics_and_the_end_of_a_call() -> None:
    """With a call in the real server, as the fake one always has some."""

    async def looked_at(live: At) -> tuple[Any, Answer]:
        async with call(live.url(format="pcm"), begin=False) as chat:
            session = (await chat.begin())["session_id"]
            await chat.say(*[pcm16(tone(1))] * 3)
            await chat.frames(3)
            stats = live.ask("/v1/stats").json
            ended = live.ask(f"/v1/sessions/{session}", "DELETE")
            assert await chat.gone() == (1000, "closed")
        return stats, ended

    with running() as live, fake(Script()) as other:
        stats, ended = in_a_thread(looked_at, live)
        imitated = other.ask("/v1/stats").json
        stats["rejected"] = imitated["rejected"] = {}  # by reason, which need not be the same
        assert shape(imitated) == shape(stats)
        session = imitated["sessions"][0]["id"]
        assert compared(ended) == compared(other.ask(f"/v1/sessions/{session}", "DELETE"))


# ---- calls -------------------------------------------------------------------------------------


async def talk(server: At) -> Any:
    """Ten frames there and back, and a ping."""
    url = server.url(format="pcm", client="kaiwa", resumable=1, pace="none")
    async with call(url, begin=False) as chat:
        about = await chat.begin()
        await chat.send(PING, b"twelve bytes")
        echo = await chat.find(PING)
        sound = tone(10)
        await chat.say(*[pcm16(frame) for frame in sound.reshape(10, -1)])
        heard = from_pcm16(await chat.frames(9))
        kinds = [message[0] for message in chat.seen if message[0] not in (PING, 2)]
    return {
        "metadata": about,
        "echo": echo,
        "kinds": kinds[:2] + sorted(set(kinds[2:]) - {METADATA}),
        "samples": len(heard),
        "loud": bool(abs(heard).max() > 0.2),
    }


async def wait(server: At) -> Any:
    """What is said of a place in the queue."""
    async with call(server.url(client="kaiwa"), begin=False) as chat:
        said = json.loads(await chat.find(METADATA))
        return shape(said), said["state"], said["position"]


async def resume(server: At) -> Any:
    """A call that is lost and taken up again."""
    url = server.url(format="pcm", client="kaiwa", resumable=1)
    async with call(url, begin=False) as chat:
        first = await chat.begin()
        chat.cut()
    again = server.url(format="pcm", resumable=1, resume=first["resume_token"])
    async with call(again, begin=False) as chat:
        second = await chat.begin()
    names = ("session_id", "resume_token")
    return second["resumed"], [first[name] == second[name] for name in names]


async def resume_nothing(server: At) -> Any:
    """A token that means nothing begins a new call."""
    url = server.url(format="pcm", resumable=1, resume="of-another-time")
    async with call(url, begin=False) as chat:
        about = await chat.begin()
    return about["resumed"], about["resume_token"] != "of-another-time"


async def end(server: At, **query: object) -> Any:
    """How a call ends whose page says nothing."""
    origin: Any = f"http://127.0.0.1:{server.port}"
    async with call(server.url(**query), begin=False, origin=origin) as chat:
        told = await chat.gone()
        kinds = [message[0] for message in chat.seen if message[0] in (0, ERROR)]
    return told, kinds


def both(
    way: Callable[[At], Awaitable[Any]], script: Script, **settings: Any
) -> tuple[dict[str, Any] | Any, dict[str, Any] | Any]:
    """What a way of calling gives at the real server, and at the fake one."""

    async def run(server: At) -> Any:
        return await way(server)

    with running(**settings) as live, fake(script) as other:
        return in_a_thread(run, live), in_a_thread(run, other)


def test_a_conversation() -> None:
    real, imitated = both(talk, Script())
    told, known = imitated.pop("metadata"), real.pop("metadata")
    assert imitated == real
    assert real["kinds"] == [0, METADATA, AUDIO]
    # What the page reads, and no more than there is.
    assert {"session_id", "max_seconds", "resume_token", "resume_seconds", "resumed"} <= set(told)
    assert shape(told) == {name: shape(known[name]) for name in told}


def test_a_place_in_the_queue() -> None:
    async def second(server: At) -> Any:
        async with call(server.url()):
            return await wait(server)

    with running(slots=1) as live, fake(Script(queue=(1,))) as other:
        assert in_a_thread(second, live) == in_a_thread(wait, other)


@pytest.mark.parametrize("way", [resume, resume_nothing])
def test_a_lost_call(way: Callable[[At], Awaitable[Any]]) -> None:
    real, imitated = both(way, Script())
    assert imitated == real


def test_a_token_that_is_worth_nothing(tmp_path: Path) -> None:
    key_edits.add(tmp_path / "keys.json", "alice", time.time())
    real, imitated = both(
        lambda server: end(server, token="of-another-time"),
        Script(auth="key"),
        keys=str(tmp_path / "keys.json"),
    )
    assert imitated == real == ((1008, "bad_token"), [ERROR])


def test_a_refusal_and_an_end_of_the_script() -> None:
    """A scripted refusal names its reason; code, message and order are the real server's."""

    async def full(server: At) -> Any:
        async with call(server.url()):
            return await end(server)

    with running(slots=1, queue=0) as live, fake(Script(refusals=[Refusal("full", "no")])) as other:
        assert in_a_thread(full, live) == in_a_thread(end, other) == ((1013, "full"), [ERROR])

    async def speak(server: At) -> Any:
        async with call(server.url(format="pcm"), begin=False) as chat:
            await chat.begin()
            await chat.say(*[pcm16(tone(1))] * 4)
            told = await chat.gone()
        return told, len(chat.said)

    script = Script(end_after=[(2, Refusal("expired", "the time limit is reached"))])
    real, imitated = both(speak, script, max_seconds=0.3)
    assert imitated == real == ((1000, "expired"), 1)


def test_an_invented_reason_is_noticed() -> None:
    with pytest.raises(KeyError):
        _ = Refusal("unauthorized").code
