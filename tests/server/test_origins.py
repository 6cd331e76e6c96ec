"""Which pages may call, and under which names."""

from __future__ import annotations

import pytest

from kaiwa.server.origins import allowed, is_loopback, is_own_name, normal_entry, split_host


@pytest.mark.parametrize(
    ("origin", "host", "ok"),
    [
        (None, "example.com", True),
        (None, None, True),
        ("https://example.com", "example.com", True),
        ("http://example.com", "example.com", True),
        ("https://example.com", "EXAMPLE.com.", True),
        ("https://example.com", "example.com:443", True),
        ("https://example.com:443", "example.com", True),
        ("http://example.com", "example.com:80", True),
        ("http://localhost:8998", "localhost:8998", True),
        ("http://[::1]:8998", "[::1]:8998", True),
        ("http://[0:0:0:0:0:0:0:1]:8998", "[::1]:8998", True),
        ("http://[::1]", "[::1]", True),
        ("https://[2001:DB8::1]", "[2001:db8:0::1]:443", True),
        # Another port, scheme or name is another origin.
        ("http://example.com", "example.com:443", False),
        ("https://example.com", "example.com:80", False),
        ("http://localhost:5173", "localhost:8998", False),
        ("http://localhost", "localhost:8998", False),
        ("http://127.0.0.1:8998", "localhost:8998", False),
        ("http://[::1]:8998", "[::2]:8998", False),
        ("https://example.com.evil.example", "example.com", False),
        ("https://evil-example.com", "example.com", False),
        ("https://sub.example.com", "example.com", False),
        ("ftp://example.com", "example.com", False),
        ("chrome-extension://example.com", "example.com", False),
        # What is no origin.
        ("null", "example.com", False),
        ("", "example.com", False),
        ("example.com", "example.com", False),
        ("https://example.com/", "example.com", False),
        ("https://user@example.com", "example.com", False),
        ("https://example.com:99999", "example.com:99999", False),
        ("https://example.com:port", "example.com", False),
        ("https://[::1", "[::1", False),
        ("https://", "", False),
        ("https://exa mple.com", "exa mple.com", False),
        ("https://example.com\r\nx", "example.com", False),
        ("https://evil.example#@example.com", "example.com", False),
        ("https://evil.example\\example.com", "example.com", False),
        # A malformed or missing Host names nobody.
        ("https://example.com", None, False),
        ("https://example.com", "example.com/x", False),
        ("https://example.com", "user@example.com", False),
    ],
)
def test_same_host(origin: str | None, host: str | None, ok: bool) -> None:
    assert allowed(origin, host) is ok


@pytest.mark.parametrize(
    ("entries", "origin", "ok"),
    [
        (["https://a.example"], "https://a.example", True),
        (["https://a.example:443/"], "https://A.example", True),
        (["http://a.example"], "https://a.example", False),
        (["https://a.example"], "https://a.example:8443", False),
        (["https://a.example"], "https://b.a.example", False),
        (["https://a.example:8443"], "https://a.example:8443", True),
        (["http://[::1]:5173"], "http://[0::1]:5173", True),
        (["capacitor://localhost"], "capacitor://localhost", True),
        (["*"], "https://anything.example:1", True),
        (["*"], "null", False),
        (["https://b.example", "*"], "https://c.example", True),
    ],
)
def test_listed(entries: list[str], origin: str, ok: bool) -> None:
    allow = [normal_entry(entry) for entry in entries]
    assert None not in allow
    assert allowed(origin, "server.example", [e for e in allow if e]) is ok


def test_with_tls_a_page_fetched_without_it_is_another_origin() -> None:
    assert allowed("https://a.example", "a.example", secure=True)
    assert not allowed("http://a.example", "a.example", secure=True)
    assert not allowed("http://a.example:8998", "a.example:8998", secure=True)


@pytest.mark.parametrize(
    "entry",
    ["null", "a.example", "https://", "https://a.example/x", "https://a b", "**", "//a.example"],
)
def test_what_is_no_entry(entry: str) -> None:
    assert normal_entry(entry) is None


@pytest.mark.parametrize(
    ("name", "loopback"),
    [
        ("localhost", True),
        ("LOCALHOST.", True),
        ("kaiwa.localhost", True),
        ("127.0.0.1", True),
        ("127.255.1.2", True),
        ("::1", True),
        ("[::1]", True),
        ("::ffff:127.0.0.1", True),
        ("localhost.evil.example", False),
        ("evil-localhost", False),
        ("127.0.0.1.evil.example", False),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("2130706433", False),
        ("", False),
    ],
)
def test_loopback(name: str, loopback: bool) -> None:
    assert is_loopback(name) is loopback


@pytest.mark.parametrize(
    ("host", "bound", "own"),
    [
        ("localhost:8998", "127.0.0.1", True),
        ("127.0.0.1", "::1", True),
        ("[::1]:8998", "127.0.0.1", True),
        ("box.example:8998", "box.example", True),
        ("BOX.example", "box.example", True),
        ("[2001:db8::1]:80", "2001:db8:0::1", True),
        ("evil.example:8998", "127.0.0.1", False),
        ("localhost.evil.example", "127.0.0.1", False),
        ("127.0.0.1@evil.example", "127.0.0.1", False),
        ("", "127.0.0.1", False),
        (None, "127.0.0.1", False),
    ],
)
def test_own_name(host: str | None, bound: str, own: bool) -> None:
    assert is_own_name(host, bound) is own


@pytest.mark.parametrize(
    ("host", "parts"),
    [
        ("a.example", ("a.example", None)),
        ("A.Example.:80", ("a.example", 80)),
        ("[::0001]:5", ("::1", 5)),
        ("a_b.example", ("a_b.example", None)),
        ("a.example:", ("a.example", None)),
        ("[fe80::1%25eth0]:5", ("fe80::1%25eth0", 5)),
        ("[1.2.3.4]", None),
        ("::1", None),
        (":80", None),
        ("-a.example", None),
        ("a.example:-1", None),
        ("a.example:65536", None),
    ],
)
def test_host_headers(host: str, parts: tuple[str, int | None] | None) -> None:
    assert split_host(host) == parts
