"""Addresses as people type them."""

from __future__ import annotations

import pytest

from kaiwa.client.url import chat_url, is_local, without_query
from kaiwa.errors import InputError

CASES = {
    "ws://h:1/api/chat": "ws://h:1/api/chat",
    "wss://h/api/chat": "wss://h/api/chat",
    "http://h:1": "ws://h:1/api/chat",
    "https://h/": "wss://h/api/chat",
    "https://h/moshi/api/chat": "wss://h/moshi/api/chat",
    "h:1": "ws://h:1/api/chat",
    "h": "ws://h:8998/api/chat",
    "127.0.0.1": "ws://127.0.0.1:8998/api/chat",
    "[::1]:5": "ws://[::1]:5/api/chat",
    "[::1]": "ws://[::1]:8998/api/chat",
    "h:1/api/chat?seed=3": "ws://h:1/api/chat?seed=3",
}


@pytest.mark.parametrize("given", CASES)
def test_forms(given: str) -> None:
    assert chat_url(given) == CASES[given]


@pytest.mark.parametrize(
    "given", ["", "ftp://h", "://h", "ws://", "h:port", "a b:1", "[::1", "h:99999"]
)
def test_what_is_no_address(given: str) -> None:
    with pytest.raises(InputError, match="no address of a server"):
        chat_url(given)


def test_parameters_replace_those_of_the_address() -> None:
    assert chat_url("h:1?seed=3&a=b", {"seed": "4", "c": "d e"}) == (
        "ws://h:1/api/chat?seed=4&a=b&c=d+e"
    )


def test_which_addresses_are_local() -> None:
    local = ("ws://127.0.0.1:1/x", "ws://[::1]:1", "ws://localhost:3")
    assert all(is_local(url) for url in local)
    assert not is_local("ws://192.0.2.1:1/127.0.0.1")
    assert not is_local("ws://moshi.example")


def test_messages_do_not_show_tokens() -> None:
    assert without_query("ws://h:1/api/chat?token=secret#x") == "ws://h:1/api/chat"
