"""The common secret: what is signed with it, and tokens that every server knows."""

from __future__ import annotations

from pathlib import Path

import pytest

from kaiwa.errors import InputError
from kaiwa.server.redaction import redact
from kaiwa.server.shared import signing
from kaiwa.server.shared.signed_tokens import SignedTokens
from kaiwa.server.shared.signing import Signer
from kaiwa.server.tokens import TokensFull, TokenStore

ONE, TWO = b"1" * 32, b"2" * 32


class Clock:
    """Seconds since 1970, as the test says."""

    def __init__(self) -> None:
        self.now = 1_900_000_000.0

    def __call__(self) -> float:
        return self.now


def stores(clock: Clock, *secrets: bytes) -> list[SignedTokens]:
    """Several servers."""
    return [SignedTokens(Signer((secret,)), 60, wall=clock) for secret in secrets]


def test_what_was_signed_is_known_by_its_secret_and_purpose_alone() -> None:
    signed = Signer((ONE,)).sign("a", b"payload")
    assert Signer((ONE,)).check("a", signed) == b"payload"
    assert Signer((TWO, ONE)).check("a", signed) == b"payload"
    assert Signer((TWO,)).check("a", signed) is None
    assert Signer((ONE,)).check("b", signed) is None


def test_nothing_can_be_changed() -> None:
    signer = Signer((ONE,))
    signed = signer.sign("a", b"payload")
    for at in range(len(signed)):
        for other in "Aa-.=\x00":
            changed = signed[:at] + other + signed[at + 1 :]
            assert changed == signed or signer.check("a", changed) is None
    for wrong in ("", ".", "a.b", signed[:-1], signed + "=", signed + "A", f"{signed}.{signed}"):
        assert signer.check("a", wrong) is None


def test_the_first_secret_signs() -> None:
    assert Signer((ONE,)).check("a", Signer((ONE, TWO)).sign("a", b"x")) == b"x"
    assert Signer((TWO,)).check("a", Signer((ONE, TWO)).sign("a", b"x")) is None


def test_secrets_are_lines_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"\n" + ONE + b"\r\n\n" + TWO + b"\n")
    found = signing.read(str(path))
    assert found.check("a", Signer((ONE,)).sign("a", b"x")) == b"x"
    assert found.check("a", Signer((TWO,)).sign("a", b"x")) == b"x"


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


def test_a_token_of_one_server_is_known_by_another_once() -> None:
    clock = Clock()
    here, there = stores(clock, ONE, ONE)
    store: TokenStore = there
    text = here.issue("alice", 0).text
    assert text.startswith("kt_")
    assert redact(f"a {text} b") == "a *** b"
    assert store.redeem(text, 0) == "alice"
    assert store.redeem(text, 0) is None


def test_a_token_of_another_secret_is_unknown() -> None:
    here, there = stores(Clock(), ONE, TWO)
    assert there.redeem(here.issue("alice", 0).text, 0) is None


@pytest.mark.parametrize(("age", "good"), [(0, True), (61.9, True), (62, False), (1e9, False)])
def test_a_token_ends_with_its_time_and_what_clocks_may_differ(age: float, good: bool) -> None:
    clock = Clock()
    here, there = stores(clock, ONE, ONE)
    text = here.issue("alice", 0).text
    clock.now += age
    assert (there.redeem(text, 0) == "alice") is good


def test_wrong_tokens_are_unknown_and_use_nothing_up() -> None:
    (store,) = stores(Clock(), ONE)
    text = store.issue("alice", 0).text
    signed_for_another_purpose = "kt_" + Signer((ONE,)).sign("voucher", b"x" * 40)
    for wrong in ("", "kt_", text[3:], text[:-1], text + "x", "kt_\ud800", "kt_é.é", "kw_" + text):
        assert store.redeem(wrong, 0) is None
    assert store.redeem(signed_for_another_purpose, 0) is None
    assert store.redeem("kt_" + Signer((ONE,)).sign("token", b"x"), 0) is None
    assert store.redeem(text, 0) == "alice"


def test_used_tokens_are_kept_as_long_as_they_would_count() -> None:
    clock = Clock()
    store = SignedTokens(Signer((ONE,)), 60, wall=clock, most=3)
    texts = [store.issue("alice", 0).text for _ in range(4)]
    assert [store.redeem(text, 0) for text in texts[:3]] == ["alice"] * 3
    with pytest.raises(TokensFull):
        store.redeem(texts[3], 0)
    clock.now += 62
    later = store.issue("alice", 0).text
    assert store.redeem(texts[0], 0) is None
    assert store.redeem(later, 0) == "alice"
    assert len(store._used) == 1
