"""The audit log, when keys were last used, and keys that expire: on a running server."""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.server.conftest import MakeKey
from tests.server.live import eventually, program, running
from tests.server.wire import call, pcm16, refusal, tone

from kaiwa.errors import InputError
from kaiwa.server import audit, key_edits, key_uses
from kaiwa.server.access import Access
from kaiwa.server.key_entry import moment
from kaiwa.server.refusal import Refused
from kaiwa.server.seldom import Seldom
from kaiwa.server.settings import ServerSettings


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


async def test_who_when_which_protocol_how_long(
    key_path: Path, make_key: MakeKey, tmp_path: Path
) -> None:
    key = make_key("alice", concurrency=1)
    log = tmp_path / "audit"
    with running(keys=str(key_path), audit_log=str(log)) as live:
        async with call(live.url(format="pcm"), additional_headers=bearer(key)) as made:
            await made.say(pcm16(tone(2)))
            await made.frames(2)
            status, _, _ = await refusal(live.url(), **bearer(key))
            assert status == 429
        await eventually(lambda: len(lines(log)) == 3, "three lines")
        # Whoever is not known leaves nothing but a count.
        assert (await refusal(live.url(), **bearer("kw_" + "x" * 40)))[0] == 401
    begin, refused, end = lines(log)
    assert [line["event"] for line in (begin, refused, end)] == ["begin", "refused", "end"]
    for line in (begin, refused, end):
        assert (line["key"], line["protocol"]) == ("alice", "kyutai")
        assert len(line["key_id"]) == 16
    assert begin["session"] == end["session"]
    assert begin["model"]
    assert begin["time"] <= refused["time"] <= end["time"]
    assert refused["reason"] == "key_concurrency"
    assert end["reason"] == "client"
    assert 0 <= end["seconds"] < 60
    assert key not in log.read_text()
    assert set(begin) == {"time", "event", "key", "key_id", "session", "protocol", "model"}
    assert set(end) == (set(begin) | {"seconds", "reason"}) - {"model"}


async def test_a_call_that_is_held_and_given_up_ends_once(
    key_path: Path, make_key: MakeKey, tmp_path: Path
) -> None:
    key = make_key("alice")
    log = tmp_path / "audit"
    settings: dict[str, Any] = {"keys": str(key_path), "audit_log": str(log), "resume_seconds": 0.2}
    with running(**settings) as live:
        url = live.url(format="pcm", resumable=1)
        async with call(url, additional_headers=bearer(key)) as made:
            made.cut()
        await eventually(lambda: len(lines(log)) == 2, "its end")
    begin, end = lines(log)
    assert (begin["event"], end["event"], end["reason"]) == ("begin", "end", "lost")
    assert begin["session"] == end["session"]


def test_a_file_that_was_moved_is_made_anew_and_a_bad_place_hurts_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = tmp_path / "audit"
    written = audit.AuditLog(str(log))
    written.write("begin", session="a")
    wait(lambda: len(lines(log)) == 1)
    log.rename(tmp_path / "audit.1")
    written.write("begin", session="b")
    wait(lambda: len(lines(log)) == 1)
    written.close()
    assert lines(log)[0]["session"] == "b"
    nowhere = audit.AuditLog(str(tmp_path / "absent" / "audit"))
    with caplog.at_level(logging.ERROR, "kaiwa.server"):
        for name in "abc":
            nowhere.write("begin", session=name)
        nowhere.close()
    said = [r for r in caplog.records if "the audit log cannot be written" in r.getMessage()]
    assert len(said) == 1
    (tmp_path / "absent").mkdir()
    audit.AuditLog(None).write("begin", session="nobody")


def wait(met: Any) -> None:
    until = time.monotonic() + 10
    while not met():
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_hurts_nobody(caplog: pytest.LogCaptureFixture) -> None:
    full = audit.AuditLog("/dev/full")
    with caplog.at_level(logging.ERROR, "kaiwa.server"):
        full.write("begin", session="a")
        full.write("begin", session="b")
        full.close()
    assert sum("cannot be written" in r.getMessage() for r in caplog.records) == 1


def test_more_lines_than_can_wait_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "MOST_WAITING", 2)
    log = audit.AuditLog("-")
    assert log._listener is not None
    log._listener.stop()
    while not log._queue.empty():
        log._queue.get_nowait()
    for name in "abcd":
        log.write("begin", session=name)
    assert log._lost == 2
    log._queue.get_nowait()
    log.write("begin", session="e")
    log._queue.get_nowait()
    assert json.loads(log._queue.get_nowait().msg)["lost_before"] == 2


def test_a_key_expires(key_path: Path) -> None:
    now = 1_900_000_000.0
    made, secret = key_edits.add(key_path, "guest", now, expires=now + 60)
    assert made.expires == moment(now + 60)
    clock = [now]
    access = Access(ServerSettings(keys=str(key_path)), lambda: clock[0])
    caller = access.authorize(bearer_lower(secret), {}, 0.0)
    token, _ = access.issue_token(caller, 0.0)
    clock[0] = now + 59
    assert not access.revoked(caller)
    access.authorize(bearer_lower(secret), {}, 0.0)
    clock[0] = now + 60
    assert access.revoked(caller)
    for query, headers in (({}, bearer_lower(secret)), ({"token": token}, {})):
        with pytest.raises(Refused) as refused:
            access.authorize(headers, query, 1.0)
        assert (refused.value.status, refused.value.code) == (401, "key_expired")
        assert moment(now + 60) in refused.value.message
    with pytest.raises(InputError, match="would have expired already"):
        key_edits.add(key_path, "late", now, expires=now)


def bearer_lower(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def test_an_expired_key_ends_its_calls(
    key_path: Path, make_key: MakeKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = make_key("guest", expires=4_000_000_000.0)
    with running(keys=str(key_path)) as live:
        async with call(live.url(format="pcm"), additional_headers=bearer(key)) as made:
            monkeypatch.setattr(live.parts.access, "_clock", lambda: 4_000_000_001.0)
            code, reason = await made.gone()
            assert (code, reason) == (1008, "revoked")
        status, error, _ = await refusal(live.url(), **bearer(key))
        assert (status, error["code"]) == (401, "key_expired")


def test_a_server_whose_keys_have_all_expired_does_not_start(key_path: Path) -> None:
    from kaiwa.server.startup import check_startup

    key_edits.add(key_path, "old", 1_000_000_000.0, expires=1_000_000_100.0)
    with pytest.raises(InputError, match="holds no key that counts"):
        check_startup(ServerSettings(keys=str(key_path)))


def test_when_keys_were_last_used(key_path: Path, make_key: MakeKey) -> None:
    used, unused = make_key("used"), make_key("unused")
    assert unused
    before = moment(time.time())
    with program("--model", "synth:echo", "--keys", key_path) as served:
        assert served.ask("/v1/models", key=used).status == 200
        served.signal()
        assert served.ended()[0] == 0
    found = key_uses.read(key_uses.file_of(key_path))
    (when,) = found.values()
    assert before <= when <= moment(time.time())


def test_uses_of_several_servers_come_together(tmp_path: Path) -> None:
    path = tmp_path / "keys.json.used"
    one, two = key_uses.KeyUses(path), key_uses.KeyUses(path)
    one.note("a", 100.0)
    two.note("a", 200.0)
    two.note("b", 50.0)
    two.write()
    one.write()
    assert key_uses.read(path) == {"a": moment(200.0), "b": moment(50.0)}
    assert path.stat().st_mode & 0o077 == 0 or sys.platform == "win32"
    path.write_bytes(b"\xff damaged")
    assert key_uses.read(path) == {}
    one.note("a", 300.0)
    one.write()
    assert key_uses.read(path) == {"a": moment(300.0)}


def test_a_place_that_cannot_be_written_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    uses = key_uses.KeyUses(tmp_path / "absent" / "used")
    with caplog.at_level(logging.INFO, "kaiwa.server"):
        for _ in range(2):
            uses.note("a", 1.0)
            uses.write()
    assert sum("is not kept" in r.getMessage() for r in caplog.records) == 1


def test_lines_that_strangers_cause_are_few_and_say_how_many() -> None:
    now = [0.0]
    seldom = Seldom(10.0, lambda: now[0])
    assert [seldom.due("a") for _ in range(3)] == ["", None, None]
    assert seldom.due("b") == ""
    now[0] = 10.0
    assert seldom.due("a") == " (3 since the last such line)"
    now[0] = 20.0
    assert seldom.due("a") == ""


async def test_refusals_are_logged_seldom(
    key_path: Path, make_key: MakeKey, caplog: pytest.LogCaptureFixture
) -> None:
    make_key("alice")
    with caplog.at_level(logging.INFO, "kaiwa.server"), running(keys=str(key_path)) as live:
        for _ in range(5):
            assert (await refusal(live.url()))[0] == 401
        live.clock.jump(10)
        assert (await refusal(live.url()))[0] == 401
        assert live.metric('kaiwa_admission_rejected_total{protocol="kyutai",reason="auth"}') == 6
    said = [r.getMessage() for r in caplog.records if r.getMessage().startswith("call refused")]
    assert said == ["call refused", "call refused (5 since the last such line)"]
