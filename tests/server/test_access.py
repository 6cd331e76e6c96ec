"""Who is let in: page, key or token, limits; what must hold at the start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kaiwa.errors import InputError
from kaiwa.server import key_edits
from kaiwa.server.access import Access
from kaiwa.server.caller import Caller
from kaiwa.server.limits import Lease
from kaiwa.server.refusal import Refused
from kaiwa.server.settings import ServerSettings
from kaiwa.server.startup import check_startup
from kaiwa.server.tokens import LocalTokens

from .conftest import NEW_YEAR, MakeKey

HOST = {"host": "kaiwa.example"}


def bearer(key: str) -> dict[str, str]:
    return {**HOST, "authorization": f"Bearer {key}"}


def keyed(path: Path, **more: Any) -> Access:
    return Access(ServerSettings(keys=str(path), **more), clock=lambda: NEW_YEAR)


def refusal(
    access: Access, headers: dict[str, str], query: dict[str, str] | None = None
) -> Refused:
    with pytest.raises(Refused) as caught:
        access.authorize(headers, query or {}, 0)
    return caught.value


# ---- without keys


def test_open_everyone_on_this_machine_is_an_operator() -> None:
    access = Access(ServerSettings())
    assert access.is_open
    caller = access.authorize({"host": "localhost:8998"}, {}, 0)
    assert caller == Caller("", "", 360, operator=True)
    access.require_operator(caller)
    assert not access.revoked(caller)
    with access.enter(caller, 0), access.enter(caller, 0):
        pass


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"host": "127.0.0.1:8998"}, None),
        ({"host": "[::1]:8998"}, None),
        ({"host": "localhost:8998", "origin": "http://localhost:8998"}, None),
        # DNS rebinding: the page's own name was pointed at this machine.
        ({"host": "evil.example:8998", "origin": "http://evil.example:8998"}, "host"),
        ({"host": "evil.example:8998"}, "host"),
        ({}, "host"),
        # A page of somebody else that calls this machine by its right name.
        ({"host": "localhost:8998", "origin": "https://evil.example"}, "origin"),
        ({"host": "localhost:8998", "origin": "null"}, "origin"),
        ({"host": "localhost:8998", "origin": "http://localhost:5173"}, "origin"),
    ],
)
def test_open_pages_of_others_are_refused(headers: dict[str, str], code: str | None) -> None:
    access = Access(ServerSettings())
    if code is None:
        access.authorize(headers, {}, 0)
        access.check_page(headers)
        return
    found = refusal(access, headers)
    assert (found.status, found.code) == (403, code)
    with pytest.raises(Refused):
        access.check_page(headers)


@pytest.mark.parametrize(
    ("host", "taken"),
    [
        ("localhost:8998", True),
        ("192.168.1.7:8998", True),
        ("[fe80::1]:8998", True),
        ("page.example", True),
        ("box.example:8998", False),
        ("evil.example", False),
    ],
)
def test_open_and_insecure_is_not_called_by_names_of_others(host: str, taken: bool) -> None:
    """DNS rebinding needs a name; an address cannot be pointed elsewhere."""
    settings = {"host": "0.0.0.0", "no_auth": True, "insecure": True}
    access = Access(ServerSettings(**settings, origin=("https://page.example",)))  # type: ignore[arg-type]
    if taken:
        assert access.authorize({"host": host}, {}, 0).operator
    else:
        assert refusal(access, {"host": host}).code == "host"
    for names in (("box.example", "evil.example"), ("*",)):
        named = Access(ServerSettings(**settings, allowed_hosts=names))  # type: ignore[arg-type]
        assert named.authorize({"host": "evil.example"}, {}, 0).operator
        assert refusal(named, {"host": "evil.example", "origin": "https://a.example"}).status == 403


def test_names_count_with_keys_where_they_are_given(make_key: MakeKey, key_path: Path) -> None:
    key = {"authorization": f"Bearer {make_key('alice')}"}
    anyone = Access(ServerSettings(keys=str(key_path)))
    assert anyone.authorize({**key, "host": "box.example"}, {}, 0).name == "alice"
    named = Access(ServerSettings(keys=str(key_path), allowed_hosts=("box.example",)))
    assert named.authorize({**key, "host": "box.example:80"}, {}, 0).name == "alice"
    assert refusal(named, {**key, "host": "evil.example"}).code == "host"


def test_open_the_bound_name_is_served() -> None:
    access = Access(ServerSettings(host="box.example", no_auth=True, insecure=False))
    assert access.authorize({"host": "box.example:8998"}, {}, 0).operator
    assert refusal(access, {"host": "other.example"}).code == "host"


def test_open_tokens_and_keys_are_not_looked_at() -> None:
    access = Access(ServerSettings(), clock=lambda: NEW_YEAR)
    headers = {"host": "localhost", "authorization": "Bearer nonsense"}
    caller = access.authorize(headers, {"token": "nonsense"}, 0)
    # A client that always fetches a token gets one.
    token, expires = access.issue_token(caller, 0)
    assert token.startswith("kt_")
    assert expires == NEW_YEAR + 60


# ---- keys


def test_a_key_is_let_in(make_key: MakeKey, key_path: Path) -> None:
    key = make_key("alice", operator=True)
    access = keyed(key_path)
    assert not access.is_open
    for scheme in ("Bearer", "bearer", "BEARER ", " Bearer"):
        caller = access.authorize({**HOST, "authorization": f"{scheme} {key}"}, {}, 0)
        assert (caller.name, caller.operator, caller.by_token) == ("alice", True, False)
        assert caller.key_id
    assert key not in repr(caller)


@pytest.mark.parametrize(
    ("headers", "query", "code"),
    [
        ({}, {}, "no_key"),
        ({"authorization": ""}, {}, "bad_authorization"),
        ({"authorization": "Bearer"}, {}, "bad_authorization"),
        ({"authorization": "KEY"}, {}, "bad_authorization"),
        ({"authorization": "Basic KEY"}, {}, "bad_authorization"),
        ({"authorization": "Bearer KEY KEY"}, {}, "bad_authorization"),
        ({"authorization": "Bearer KEYx"}, {}, "unknown_key"),
        ({"authorization": "Bearer kw_"}, {}, "unknown_key"),
        ({}, {"token": ""}, "bad_token"),
        ({}, {"token": "kt_unknown"}, "bad_token"),
        ({}, {"token": "KEY"}, "key_in_query"),
        ({}, {"key": "KEY"}, "key_in_query"),
        ({}, {"api_key": "KEY"}, "key_in_query"),
        # Also beside a good header: the key is in somebody's log by now.
        ({"authorization": "Bearer KEY"}, {"anything": "KEY"}, "key_in_query"),
        # What stands elsewhere is not looked for.
        ({"x-api-key": "KEY", "cookie": "key=KEY"}, {}, "no_key"),
    ],
)
def test_who_is_refused(
    headers: dict[str, str], query: dict[str, str], code: str, make_key: MakeKey, key_path: Path
) -> None:
    key = make_key("alice")
    filled = {name: value.replace("KEY", key) for name, value in headers.items()}
    asked = {name: value.replace("KEY", key) for name, value in query.items()}
    found = refusal(keyed(key_path), {**HOST, **filled}, asked)
    assert (found.status, found.code) == (401, code)
    for text in (str(found), repr(found), str(found.body())):
        assert key not in text
    assert found.headers()["WWW-Authenticate"] == "Bearer"


def test_the_page_comes_before_the_key(make_key: MakeKey, key_path: Path) -> None:
    key = make_key("alice")
    access = keyed(key_path, origin=("https://app.example",))
    for headers in (bearer(key), bearer("kw_wrong"), HOST):
        found = refusal(access, {**headers, "origin": "https://evil.example"})
        assert (found.status, found.code) == (403, "origin")
    for origin in ("https://app.example", "https://kaiwa.example"):
        assert access.authorize({**bearer(key), "origin": origin}, {}, 0).name == "alice"


def test_with_keys_any_host_name_is_served(make_key: MakeKey, key_path: Path) -> None:
    key = make_key("alice")
    access = keyed(key_path)
    assert access.authorize({"authorization": f"Bearer {key}"}, {}, 0).name == "alice"


def test_tls_is_looked_at_in_the_origin(make_key: MakeKey, key_path: Path) -> None:
    key = make_key("alice")
    access = keyed(key_path, ssl_cert="c.pem", ssl_key="k.pem")
    assert refusal(access, {**bearer(key), "origin": "http://kaiwa.example"}).code == "origin"
    access.authorize({**bearer(key), "origin": "https://kaiwa.example"}, {}, 0)


@pytest.mark.parametrize(
    ("of_key", "of_server", "wanted"),
    [(None, 360, 360), (20, 360, 20), (600, 360, 360), (600, 0, 600), (None, 0, None)],
)
def test_the_shorter_limit_of_time_counts(
    of_key: float | None, of_server: float, wanted: float | None, make_key: MakeKey, key_path: Path
) -> None:
    key = make_key("alice", max_seconds=of_key)
    access = keyed(key_path, max_seconds=of_server)
    assert access.authorize(bearer(key), {}, 0).max_seconds == wanted


def test_keys_may_be_for_some_protocols(make_key: MakeKey, key_path: Path) -> None:
    key = make_key("alice", protocols=("kyutai",))
    access = keyed(key_path)
    # For what is no call.
    access.authorize(bearer(key), {}, 0)
    caller = access.authorize(bearer(key), {}, 0, protocol="kyutai")
    access.enter(caller, 0).release()
    with pytest.raises(Refused) as caught:
        access.authorize(bearer(key), {}, 0, protocol="live")
    assert (caught.value.status, caught.value.code) == (403, "not_for_this_key")
    assert "is not for this protocol" in caught.value.message


def test_a_conversation_of_an_unknown_protocol_is_refused(
    make_key: MakeKey, key_path: Path
) -> None:
    key = make_key("alice", protocols=("kyutai",))
    access = keyed(key_path)
    with pytest.raises(Refused) as caught:
        access.enter(access.authorize(bearer(key), {}, 0), 0)
    assert (caught.value.status, caught.value.code) == (403, "not_for_this_key")


@pytest.mark.parametrize("by_token", [False, True])
@pytest.mark.parametrize(
    ("models", "model", "refused"),
    [
        (None, "moshika", None),
        (None, None, None),
        (("moshika",), "moshika", None),
        (("moshiko", "moshika"), "moshika", None),
        (("moshika",), "moshiko", (403, "not_for_this_key")),
        (("moshika",), "Moshika", (403, "not_for_this_key")),
        (("moshika",), "", (403, "not_for_this_key")),
        ((), "moshika", (403, "not_for_this_key")),
        # Not loaded yet: nobody can tell.
        (("moshika",), None, (503, "starting")),
    ],
)
def test_keys_may_be_for_some_models(
    models: tuple[str, ...] | None,
    model: str | None,
    refused: tuple[int, str] | None,
    by_token: bool,
    make_key: MakeKey,
    key_path: Path,
) -> None:
    key = make_key("alice", models=models, concurrency=1)
    access = keyed(key_path)
    caller = access.authorize(bearer(key), {}, 0, protocol="kyutai")
    if by_token:
        token, _ = access.issue_token(caller, 0)
        caller = access.authorize(HOST, {"token": token}, 0, protocol="kyutai")
    for at in range(3):
        if refused is None:
            access.enter(caller, at, model=model).release()
            continue
        with pytest.raises(Refused) as caught:
            access.enter(caller, at, model=model)
        assert (caught.value.status, caught.value.code) == refused
        assert (caught.value.retry_after is None) is (refused[0] == 403)
    # What was refused counts nowhere.
    assert access._limits.live(caller.key_id) == 0


def test_a_held_call_is_refused_when_its_key_is_for_its_model_no_more(
    make_key: MakeKey, key_path: Path
) -> None:
    key = make_key("alice", models=("moshika",))
    access = keyed(key_path)
    caller = access.authorize(bearer(key), {}, 0, protocol="kyutai")
    held = access.enter(caller, 0, model="moshika")
    text = key_path.read_text(encoding="utf-8")
    key_path.write_text(text.replace("moshika", "another"), encoding="utf-8")
    with pytest.raises(Refused, match="not for this model"):
        access.enter(caller, 1, model="moshika", held=held)


def test_operators(make_key: MakeKey, key_path: Path) -> None:
    alice, root = make_key("alice"), make_key("root", operator=True)
    access = keyed(key_path)
    access.require_operator(access.authorize(bearer(root), {}, 0))
    with pytest.raises(Refused) as caught:
        access.require_operator(access.authorize(bearer(alice), {}, 0))
    assert (caught.value.status, caught.value.code) == (403, "operator")


# ---- revoking


@pytest.mark.parametrize("how", ["revoked", "removed"])
def test_a_key_that_counts_no_more(how: str, make_key: MakeKey, key_path: Path) -> None:
    bob, alice = make_key("bob"), make_key("alice")
    access = keyed(key_path)
    caller, other = (access.authorize(bearer(key), {}, 0) for key in (alice, bob))
    token, _ = access.issue_token(caller, 0)
    assert not access.revoked(caller)
    if how == "revoked":
        key_edits.revoke(key_path, "alice", NEW_YEAR)
    else:
        fresh = key_path.with_name("fresh.json")
        key_edits.add(fresh, "carol", NEW_YEAR)
        fresh.replace(key_path)
    code = {"revoked": "revoked", "removed": "unknown_key"}[how]
    assert access.revoked(caller)
    assert access.revoked(other) is (how == "removed")
    assert refusal(access, bearer(alice)).code == code
    for attempt in (access.enter, access.issue_token):
        with pytest.raises(Refused) as caught:
            attempt(caller, 0)
        assert (caught.value.status, caught.value.code) == (401, code)
    found = refusal(access, HOST, {"token": token})
    assert (found.status, found.code) == (401, {"revoked": "revoked"}.get(how, "bad_token"))


# ---- tokens


def test_a_token_stands_for_its_key_once(make_key: MakeKey, key_path: Path) -> None:
    key = make_key("alice", max_seconds=20, operator=True)
    access = keyed(key_path)
    token, expires = access.issue_token(access.authorize(bearer(key), {}, 0), 0)
    assert expires == NEW_YEAR + 60
    caller = access.authorize(HOST, {"token": token}, 59)
    assert (caller.name, caller.max_seconds, caller.by_token) == ("alice", 20, True)
    # It is for a conversation: no rights of an operator, and no further tokens.
    assert not caller.operator
    with pytest.raises(Refused) as caught:
        access.issue_token(caller, 59)
    assert (caught.value.status, caught.value.code) == (403, "token_for_token")
    assert refusal(access, HOST, {"token": token}).code == "bad_token"


def test_a_token_gets_too_old(make_key: MakeKey, key_path: Path) -> None:
    key = make_key("alice")
    access = keyed(key_path, token_seconds=10)
    caller = access.authorize(bearer(key), {}, 0)
    token, expires = access.issue_token(caller, 0)
    assert expires == NEW_YEAR + 10
    with pytest.raises(Refused, match="unknown, used or too old"):
        access.authorize(HOST, {"token": token}, 10)


def test_a_header_goes_before_a_token_and_leaves_it(make_key: MakeKey, key_path: Path) -> None:
    alice, bob = make_key("alice"), make_key("bob")
    access = keyed(key_path)
    token, _ = access.issue_token(access.authorize(bearer(bob), {}, 0), 0)
    assert access.authorize(bearer(alice), {"token": token}, 0).name == "alice"
    assert refusal(access, bearer("kw_wrong"), {"token": token}).code == "unknown_key"
    assert access.authorize(HOST, {"token": token}, 0).name == "bob"


def test_a_token_of_a_foreign_page_is_not_used_up(make_key: MakeKey, key_path: Path) -> None:
    key = make_key("alice")
    access = keyed(key_path)
    token, _ = access.issue_token(access.authorize(bearer(key), {}, 0), 0)
    foreign = {**HOST, "origin": "https://evil.example"}
    assert refusal(access, foreign, {"token": token}).code == "origin"
    assert access.authorize(HOST, {"token": token}, 0).name == "alice"


def test_too_many_tokens(make_key: MakeKey, key_path: Path) -> None:
    alice, bob = make_key("alice"), make_key("bob")
    settings = ServerSettings(keys=str(key_path))
    access = Access(settings, tokens=LocalTokens(60, most=1, most_per_key=1))
    access.issue_token(access.authorize(bearer(alice), {}, 0), 0)
    with pytest.raises(Refused) as caught:
        access.issue_token(access.authorize(bearer(bob), {}, 0), 0)
    assert (caught.value.status, caught.value.retry_after) == (429, 60)


# ---- limits


def test_limits_of_a_key(make_key: MakeKey, key_path: Path) -> None:
    key = make_key("alice", concurrency=1, per_minute=3)
    access = keyed(key_path)
    caller = access.authorize(bearer(key), {}, 0)

    def refused(now: float, held: Lease | None = None) -> tuple[int, str, int | None]:
        with pytest.raises(Refused) as caught:
            access.enter(caller, now, held=held)
        assert "alice allows" in caught.value.message
        return caught.value.status, caught.value.code, caught.value.retry_after

    first = access.enter(caller, 0)
    assert refused(1) == (429, "key_concurrency", 5)
    assert access.enter(caller, 2, held=first) is first
    first.release()
    access.enter(caller, 3).release()
    assert refused(4) == (429, "key_rate", 56)
    access.enter(caller, 60).release()


def test_token_and_key_share_their_limits(make_key: MakeKey, key_path: Path) -> None:
    key = make_key("alice", concurrency=1)
    access = keyed(key_path)
    caller = access.authorize(bearer(key), {}, 0)
    token, _ = access.issue_token(caller, 0)
    with access.enter(caller, 0), pytest.raises(Refused):
        access.enter(access.authorize(HOST, {"token": token}, 0), 0)


def test_limits_are_those_of_the_file_now(make_key: MakeKey, key_path: Path) -> None:
    key = make_key("alice", concurrency=1)
    access = keyed(key_path)
    caller = access.authorize(bearer(key), {}, 0)
    access.enter(caller, 0)
    text = key_path.read_text(encoding="utf-8")
    key_path.write_text(text.replace('"concurrency": 1', '"concurrency": 22'), encoding="utf-8")
    access.enter(caller, 0)


# ---- refusals


def test_a_refusal_as_an_answer() -> None:
    refused = Refused(429, "key_rate", "wait", 12)
    assert refused.headers() == {"Cache-Control": "no-store", "Retry-After": "12"}
    assert refused.body() == {
        "error": {"type": "rate_limit_error", "code": "key_rate", "message": "wait", "param": None}
    }
    kinds = {
        status: Refused(status, "c", "m").body()["error"]["type"] for status in (401, 403, 503)
    }
    assert kinds == {401: "authentication_error", 403: "permission_error", 503: "server_error"}


# ---- the start


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, None),
        ({"no_auth": True}, None),
        ({"host": "::1"}, None),
        ({"host": "0.0.0.0", "no_auth": True, "insecure": True}, None),
        ({"tunnel": True, "no_auth": True, "insecure": True}, None),
        ({"host": "0.0.0.0"}, "with --host 0.0.0.0 .* `kaiwa key add .* adding --no-auth --insec"),
        ({"host": "box.example", "no_auth": True}, "adding --insecure$"),
        ({"host": "0.0.0.0", "insecure": True}, "adding --no-auth --insecure$"),
        ({"tunnel": True}, "with --tunnel .* `kaiwa key add"),
        ({"tunnel": True, "no_auth": True}, "adding --insecure$"),
        ({"keys": "/no/keys.json"}, "there is no file of keys /no/keys.json; make one with"),
        ({"ssl_cert": "/no/c.pem", "ssl_key": "/no/k.pem"}, "the file of ssl_cert does not exist"),
    ],
)
def test_the_start(given: dict[str, Any], says: str | None) -> None:
    settings = ServerSettings(**given)
    if says is None:
        check_startup(settings)
        return
    with pytest.raises(InputError, match=says):
        check_startup(settings)


def test_a_file_without_keys_that_count_serves_nobody(make_key: MakeKey, key_path: Path) -> None:
    settings = ServerSettings(keys=str(key_path), host="0.0.0.0")
    make_key("alice")
    check_startup(settings)
    key_edits.revoke(key_path, "alice", NEW_YEAR)
    with pytest.raises(InputError, match="holds no key that counts, so nobody could call"):
        check_startup(settings)
    key_path.write_text('{"format": "kaiwa-keys", "version": 1, "keys": []}', encoding="utf-8")
    with pytest.raises(InputError, match="holds no key that counts"):
        check_startup(settings)
    key_path.write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="is damaged"):
        check_startup(settings)


def test_a_missing_private_key_is_told_without_its_place(tmp_path: Path) -> None:
    cert = tmp_path / "c.pem"
    cert.touch()
    with pytest.raises(InputError, match="the file of ssl_key does not exist") as caught:
        check_startup(ServerSettings(ssl_cert=str(cert), ssl_key=str(tmp_path / "hidden.pem")))
    assert "hidden" not in str(caught.value)
