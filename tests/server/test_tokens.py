"""Tokens: once, soon, bounded."""

from __future__ import annotations

import pytest

from kaiwa.server.tokens import LocalTokens, TokensFull, TokenStore


def redeem(store: TokenStore, text: str, now: float) -> str | None:
    """Id of the key of a token; None if it does not count."""
    found = store.redeem(text, now)
    return None if found is None else found.key_id


def test_a_token_is_good_once() -> None:
    store: TokenStore = LocalTokens(60)
    issued = store.issue("alice", 0)
    assert issued.text.startswith("kt_")
    assert len(issued.text) == 3 + 43
    assert issued.seconds == 60
    assert redeem(store, issued.text, 1) == "alice"
    assert redeem(store, issued.text, 1) is None


@pytest.mark.parametrize(("age", "good"), [(0, True), (59.999, True), (60, False), (1e6, False)])
def test_a_token_is_good_soon(age: float, good: bool) -> None:
    store = LocalTokens(60)
    text = store.issue("alice", 1000).text
    assert (redeem(store, text, 1000 + age) == "alice") is good
    assert len(store) == 0


def test_wrong_tokens_are_unknown() -> None:
    store = LocalTokens(60)
    text = store.issue("alice", 0).text
    for wrong in ("", "kt_", text[:-1], text + "x", "\ud800", "\udc80é"):
        assert redeem(store, wrong, 0) is None
    assert redeem(store, text, 0) == "alice"


def test_tokens_of_several_keys_are_kept_apart() -> None:
    store = LocalTokens(60)
    texts = {name: store.issue(name, 0).text for name in "abc"}
    assert len(set(texts.values())) == 3
    for name in "cab":
        assert redeem(store, texts[name], 0) == name
    assert len(store) == 0


def test_old_ones_are_dropped() -> None:
    store = LocalTokens(10)
    for second in range(1000):
        store.issue("alice", second)
        assert len(store) <= 10


def test_a_key_with_many_tokens_loses_its_oldest() -> None:
    store = LocalTokens(60, most_per_key=3)
    texts = [store.issue("alice", n).text for n in range(5)]
    other = store.issue("bob", 5).text
    assert [redeem(store, text, 6) for text in texts] == [None, None, "alice", "alice", "alice"]
    assert redeem(store, other, 6) == "bob"


def test_there_is_an_end_to_tokens() -> None:
    store = LocalTokens(60, most=3, most_per_key=2)
    first = store.issue("a", 0).text
    store.issue("a", 1)
    store.issue("b", 2)
    with pytest.raises(TokensFull):
        store.issue("c", 3)
    store.issue("a", 3)  # instead of its oldest
    assert redeem(store, first, 3) is None
    assert len(store) == 3
    store.issue("c", 61)  # the first ones are gone


def test_tokens_are_neither_kept_nor_printed() -> None:
    store = LocalTokens(60)
    issued = store.issue("alice", 0)
    assert issued.text not in repr(issued)
    assert issued.text not in str(vars(store))
