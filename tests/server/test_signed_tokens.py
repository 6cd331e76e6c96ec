"""The common secret: what is signed with it, and tokens that every server accepts."""

from __future__ import annotations

import base64
import hashlib
import hmac
import struct
from pathlib import Path

import pytest

from kaiwa.errors import InputError
from kaiwa.server.redaction import redact
from kaiwa.server.shared import signing
from kaiwa.server.shared.signed_tokens import SignedTokens
from kaiwa.server.shared.signing import Signer
from kaiwa.server.tokens import TokensFull, TokenStore

ONE, TWO = b"1" * 32, b"2" * 32
VALUE = {"key": "alice", "end": 1.5, "more": [None, True, "ü"]}


class Clock:
    """Seconds since 1970, as the test says."""

    def __init__(self) -> None:
        self.now = 1_900_000_000.0

    def __call__(self) -> float:
        return self.now


def stores(clock: Clock, *secrets: bytes) -> list[SignedTokens]:
    """Several servers."""
    return [SignedTokens(Signer((secret,)), 60, wall=clock) for secret in secrets]


def redeem(store: TokenStore, text: str) -> str | None:
    """Id of the key of a token; None if it does not count."""
    found = store.redeem(text, 0)
    return None if found is None else found.key_id


def test_what_was_signed_counts_for_its_secret_and_purpose_alone() -> None:
    signed = Signer((ONE,)).sign("a", VALUE)
    assert Signer((ONE,)).check("a", signed) == VALUE
    assert Signer((TWO, ONE)).check("a", signed) == VALUE
    assert Signer((TWO,)).check("a", signed) is None
    assert Signer((ONE,)).check("b", signed) is None


def test_nothing_can_be_changed() -> None:
    signer = Signer((ONE,))
    signed = signer.sign("a", VALUE)
    for at in range(len(signed)):
        for other in "AaBb-.=\x00 ":
            changed = signed[:at] + other + signed[at + 1 :]
            assert changed == signed or signer.check("a", changed) is None
            assert signer.check("a", signed[:at] + other + signed[at:]) is None
    for wrong in ("", ".", "a.b", signed[:-1], signed + "=", signed + "A", f"{signed}.{signed}"):
        assert signer.check("a", wrong) is None


def test_a_signature_has_one_spelling() -> None:
    """The last letter of its base64 holds bits that say nothing."""
    signer = Signer((ONE,))
    signed = signer.sign("a", VALUE)
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    assert [x for x in letters if signer.check("a", signed[:-1] + x) is not None] == [signed[-1]]


def test_the_first_secret_signs() -> None:
    both = Signer((ONE, TWO))
    assert Signer((ONE,)).check("a", both.sign("a", VALUE)) == VALUE
    assert Signer((TWO,)).check("a", both.sign("a", VALUE)) is None
    assert both.check("a", Signer((TWO,)).sign("a", VALUE)) == VALUE


def test_secrets_are_lines_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"\n" + ONE + b"\r\n\n" + TWO + b"\n")
    found = signing.read(str(path))
    assert found.check("a", Signer((ONE,)).sign("a", VALUE)) == VALUE
    assert found.check("a", Signer((TWO,)).sign("a", VALUE)) == VALUE
    assert Signer((ONE,)).check("a", found.sign("a", VALUE)) == VALUE


def test_secrets_are_files_of_a_folder(tmp_path: Path) -> None:
    for name, secret in (("2-next", TWO), ("1-current", ONE), (".hidden", b"short")):
        (tmp_path / name).write_bytes(secret)
    found = signing.read(str(tmp_path))
    assert Signer((ONE,)).check("a", found.sign("a", VALUE)) == VALUE
    assert found.check("a", Signer((TWO,)).sign("a", VALUE)) == VALUE
    (tmp_path / "3-previous").write_bytes(b"short-password")
    with pytest.raises(InputError, match="shorter than 32 bytes"):
        signing.read(str(tmp_path))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="holds no secret"):
        signing.read(str(empty))


@pytest.mark.parametrize(
    ("held", "says"),
    [
        (None, "cannot be read: No such file"),
        (b"", "holds no secret"),
        (b"\n \n", "holds no secret"),
        (b"short-password", "shorter than 32 bytes"),
        (ONE + b"\nshort-password", "shorter than 32 bytes"),
        (b"x" * 70_000, "holds no secret"),
    ],
)
def test_files_that_hold_no_secret(held: bytes | None, says: str, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    if held is not None:
        path.write_bytes(held)
    with pytest.raises(InputError, match=says) as caught:
        signing.read(str(path))
    assert "openssl rand" in str(caught.value)
    assert "short-password" not in str(caught.value)


def test_a_token_of_one_server_counts_on_another_once() -> None:
    here, there = stores(Clock(), ONE, ONE)
    store: TokenStore = there
    text = here.issue("alice", 0).text
    assert text.startswith("kt_")
    assert redact(f"a {text} b") == "a *** b"
    assert redeem(store, text) == "alice"
    assert redeem(store, text) is None


def test_a_token_of_another_secret_does_not_count() -> None:
    here, there = stores(Clock(), ONE, TWO)
    assert redeem(there, here.issue("alice", 0).text) is None


def test_a_token_has_the_same_name_on_every_server_and_no_other_has_it() -> None:
    clock = Clock()
    here, there = stores(clock, ONE, ONE)
    text = here.issue("alice", 0).text
    found = [store.redeem(text, 0) for store in (here, there)]
    assert found[0] == found[1]
    assert found[0] is not None
    assert found[0].until == clock.now + 62
    other = here.redeem(here.issue("alice", 0).text, 0)
    assert other is not None
    assert other.id != found[0].id


@pytest.mark.parametrize(("age", "good"), [(0, True), (61.9, True), (62, False), (1e9, False)])
def test_a_token_ends_with_its_time_and_what_clocks_may_differ(age: float, good: bool) -> None:
    clock = Clock()
    here, there = stores(clock, ONE, ONE)
    text = here.issue("alice", 0).text
    clock.now += age
    assert (redeem(there, text) == "alice") is good


@pytest.mark.parametrize(("ahead", "good"), [(1.9, True), (2.1, False), (1e6, False)])
def test_a_token_of_a_server_whose_clock_is_fast_does_not_count(ahead: float, good: bool) -> None:
    """It would have to be remembered for longer than all others."""
    clock = Clock()
    (store,) = stores(clock, ONE)
    clock.now += ahead
    text = store.issue("alice", 0).text
    clock.now -= ahead
    assert (redeem(store, text) == "alice") is good


def test_wrong_tokens_do_not_count_and_use_nothing_up() -> None:
    (store,) = stores(Clock(), ONE)
    text = store.issue("alice", 0).text
    good = Signer((ONE,)).check("token", text[3:])
    signed_for_another_purpose = "kt_" + Signer((ONE,)).sign("voucher", good)
    for wrong in ("", "kt_", text[3:], text[:-1], text + "x", "kt_\ud800", "kt_é.é", "kw_" + text):
        assert redeem(store, wrong) is None
    assert redeem(store, signed_for_another_purpose) is None
    assert redeem(store, "kt_" + Signer((ONE,)).sign("token", "x")) is None
    assert redeem(store, text) == "alice"


def test_a_token_in_the_form_of_earlier_versions_is_refused_as_any_unknown_one() -> None:
    clock = Clock()
    (store,) = stores(clock, ONE)
    # A binary payload and its HMAC, each in base64, signed with the same secret.
    payload = struct.pack(">d12s", clock.now + 60, b"x" * 12) + b"alice"
    mac = hmac.new(ONE, b"kaiwa token\0" + payload, hashlib.sha256).digest()
    text = ".".join(base64.urlsafe_b64encode(x).rstrip(b"=").decode() for x in (payload, mac))
    assert redeem(store, f"kt_{text}") is None


def test_used_tokens_are_remembered_as_long_as_they_would_count() -> None:
    clock = Clock()
    store = SignedTokens(Signer((ONE,)), 60, wall=clock, most=3)
    texts = [store.issue("alice", 0).text for _ in range(4)]
    assert [redeem(store, text) for text in texts[:3]] == ["alice"] * 3
    with pytest.raises(TokensFull):
        store.redeem(texts[3], 0)
    clock.now += 62
    later = store.issue("alice", 0).text
    assert redeem(store, texts[0]) is None
    assert redeem(store, later) == "alice"
    assert len(store._used) == 1
