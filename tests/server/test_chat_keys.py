"""Keys and tokens on a running server."""

from __future__ import annotations

import time
from pathlib import Path

from tests.server.conftest import MakeKey
from tests.server.live import Live, eventually, running
from tests.server.wire import ERROR, call, refusal

from kaiwa.server import key_edits


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def test_without_a_key_nobody_gets_in(key_path: Path, make_key: MakeKey) -> None:
    key = make_key("alice")
    with running(keys=str(key_path)) as live:
        for headers, code in (
            ({}, "no_key"),
            (bearer(key[:-1] + ("a" if key[-1] != "a" else "b")), "unknown_key"),
            (bearer(""), "bad_authorization"),
            ({"Authorization": key}, "bad_authorization"),
        ):
            status, error, answer = await refusal(live.url(), **headers)
            assert (status, error["type"]) == (401, "authentication_error")
            assert error["code"] == code
            assert answer["www-authenticate"] == "Bearer"
        status, error, _ = await refusal(live.url(anything=key))
        assert (status, error["code"]) == (401, "key_in_query")
        assert live.ask("/v1/models").status == 401
        assert live.ask("/v1/models", key=key).status == 200
        assert live.ask("/v1/info").json["auth"] == "key"
        for path in ("/healthz", "/readyz", "/startupz", "/metrics", "/"):
            assert live.ask(path).status == 200, path
        page = {"Origin": f"http://127.0.0.1:{live.port}"}
        async with call(live.url(), begin=False, additional_headers=page) as chat:
            assert await chat.gone() == (1008, "no_key")
        assert [message[0] for message in chat.seen] == [ERROR]
        async with call(live.url(), additional_headers=bearer(key)):
            assert live.engine.readiness.slots_used == 1


async def test_a_token_serves_one_connection(key_path: Path, make_key: MakeKey) -> None:
    key = make_key("alice", operator=True)
    with running(keys=str(key_path)) as live:
        assert live.ask("/v1/tokens", "POST").status == 401
        answer = live.ask("/v1/tokens", "POST", key)
        assert answer.headers["cache-control"] == "no-store"
        token = answer.json["token"]
        assert 0 < answer.json["expires_at"] - time.time() <= 61
        async with call(live.url(token=token)):
            status, error, _ = await refusal(live.url(token=token))
            assert (status, error["code"]) == (401, "bad_token")
        other = live.ask("/v1/tokens", "POST", key).json["token"]
        # It is good for a call, not for what an operator may do, nor for another token.
        assert live.ask(f"/v1/sessions?token={other}").status == 403
        third = live.ask("/v1/tokens", "POST", key).json["token"]
        assert live.ask(f"/v1/tokens?token={third}", "POST").status == 403


async def test_a_key_has_so_many_conversations_at_once(key_path: Path, make_key: MakeKey) -> None:
    key, other = make_key("alice", concurrency=1), make_key("bob")
    with running(keys=str(key_path)) as live:
        for _ in range(2):
            async with call(live.url(), additional_headers=bearer(key)):
                status, error, headers = await refusal(live.url(), **bearer(key))
                assert (status, error["code"]) == (429, "key_concurrency")
                assert int(headers["retry-after"]) > 0
                async with call(live.url(), additional_headers=bearer(other)):
                    pass
            await eventually(lambda: live.quiet)


async def test_a_key_has_its_own_time(key_path: Path, make_key: MakeKey) -> None:
    key = make_key("alice", max_seconds=0.5, concurrency=1)
    with running(keys=str(key_path)) as live:
        async with call(live.url(), False, additional_headers=bearer(key)) as chat:
            assert (await chat.begin())["max_seconds"] == 0.5
            assert await chat.gone() == (1000, "expired")
            # Who was told of the end may call again at once.
            async with call(live.url(), additional_headers=bearer(key)):
                pass


async def test_a_revoked_key_ends_its_calls(key_path: Path, make_key: MakeKey) -> None:
    key, other = make_key("alice"), make_key("bob")
    with running(keys=str(key_path)) as live:
        async with (
            call(live.url(), additional_headers=bearer(key)) as chat,
            call(live.url(), additional_headers=bearer(other)) as another,
        ):
            key_edits.revoke(key_path, "alice", time.time())
            assert await chat.gone(5) == (1008, "revoked")
            assert "revoked" in chat.said[0]
            status, error, _ = await refusal(live.url(), **bearer(key))
            assert (status, error["code"]) == (401, "revoked")
            await (await another.socket.ping())


async def test_what_operators_may_do(key_path: Path, make_key: MakeKey) -> None:
    key, boss = make_key("alice"), make_key("boss", operator=True)
    with running(keys=str(key_path)) as live:
        async with call(live.url(), begin=False, additional_headers=bearer(key)) as chat:
            session = (await chat.begin())["session_id"]
            path = f"/v1/sessions/{session}"
            for method, place in (("GET", "/v1/sessions"), ("GET", "/v1/stats"), ("DELETE", path)):
                assert live.ask(place, method).status == 401
                assert live.ask(place, method, key).status == 403
            rows = live.ask("/v1/sessions", key=boss).json["sessions"]
            assert [(row["id"], row["key_name"]) for row in rows] == [(session, "alice")]
            assert live.ask("/v1/stats", key=boss).json["slots_used"] == 1
            assert live.ask(path, "DELETE", boss).status == 204
            assert await chat.gone() == (1000, "closed")


async def lost(live: Live, key: str) -> str:
    """A call of a key whose connection broke; its token."""
    url = live.url(resumable=1)
    async with call(url, begin=False, additional_headers=bearer(key)) as chat:
        token: str = (await chat.begin())["resume_token"]
        chat.cut()
        await eventually(lambda: live.parts.held)
    return token


async def test_a_held_call_is_there_for_its_own_key(key_path: Path, make_key: MakeKey) -> None:
    key, other = make_key("alice", concurrency=1), make_key("bob")
    with running(keys=str(key_path)) as live:
        token = await lost(live, key)
        url = live.url(resume=token)
        async with call(url, begin=False, additional_headers=bearer(other)) as thief:
            assert (await thief.begin())["resumed"] is False
        # A held call counts.
        status, error, _ = await refusal(live.url(), **bearer(key))
        assert (status, error["code"]) == (429, "key_concurrency")
        async with call(url, begin=False, additional_headers=bearer(key)) as chat:
            assert (await chat.begin())["resumed"] is True


async def test_a_refused_resumption_leaves_the_call_held(key_path: Path, make_key: MakeKey) -> None:
    key = make_key("alice", concurrency=1, per_minute=1)
    with running(keys=str(key_path), resume_seconds=0.6) as live:
        token = await lost(live, key)
        status, error, _ = await refusal(live.url(resume=token), **bearer(key))
        assert (status, error["code"]) == (429, "key_rate")
        assert [held.session.resume_token for held in live.parts.held] == [token]
        await eventually(lambda: live.quiet)
        (name,) = (entry.id for entry in live.parts.access._keys.entries())  # type: ignore[union-attr]
        assert live.parts.access._limits.live(name) == 0


async def test_a_held_call_of_a_revoked_key_is_not_taken_up(
    key_path: Path, make_key: MakeKey
) -> None:
    key, _ = make_key("alice"), make_key("bob")
    with running(keys=str(key_path), resume_seconds=30) as live:
        token = await lost(live, key)
        key_edits.revoke(key_path, "alice", time.time())
        status, error, _headers = await refusal(live.url(resume=token), **bearer(key))
        assert (status, error["code"]) == (401, "revoked")
        await eventually(lambda: live.quiet, "the held call has ended", 3)


async def test_a_minute_later(key_path: Path, make_key: MakeKey) -> None:
    key = make_key("alice", per_minute=1)
    with running(keys=str(key_path)) as live:
        tokens = [live.ask("/v1/tokens", "POST", key).json["token"] for _ in range(2)]
        live.clock.jump(58)
        async with call(live.url(token=tokens[0])):
            pass
        status, error, answer = await refusal(live.url(), **bearer(key))
        assert (status, error["code"]) == (429, "key_rate")
        assert 50 < int(answer["retry-after"]) <= 60
        live.clock.jump(60)
        status, error, _ = await refusal(live.url(token=tokens[1]))
        assert (status, error["code"]) == (401, "bad_token")
        async with call(live.url(), additional_headers=bearer(key)):
            pass
