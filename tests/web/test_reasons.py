"""The table of reasons holds what the server and the engine say, and the page has all of it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import kaiwa
from kaiwa import _native, reasons
from tools import page_reasons

SERVER = Path(kaiwa.__file__).parent / "server"
#: Refusals of HTTP requests that are no calls.
NO_CALLS = {
    "method",
    "not_found",
    "no_session",
    "operator",
    "token_for_token",
    "websocket",
    # Files that are sent to be transcribed.
    "bad_audio",
    "too_large",
}
#: Made up of parts, or handed over in a variable.
COMPOSED = {"full", "overloaded", "key_concurrency", "key_rate"}
#: Said in the close frame alone, by the layer below calls.
CUT_OFF = {"flood"}
#: What another server answers that says nothing a program can read.
FOREIGN = {"unknown"}


def refusals() -> Iterator[tuple[str, int]]:
    """Code and status of every refusal that is written out in the server."""
    for path in SERVER.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                continue
            match node.func.id, node.args:
                case "Refused", [ast.Constant(int(status)), ast.Constant(str(code)), *_]:
                    yield code, status
                case "_unauthorized", [ast.Constant(str(code)), *_]:
                    yield code, 401


def test_every_refusal_of_the_server_is_in_the_table() -> None:
    found = dict(refusals())
    assert len(found) > 15
    called = {code: status for code, status in found.items() if code not in NO_CALLS}
    assert called == {code: reasons.REASONS[code].status for code in called}
    refused = {name for name, reason in reasons.REASONS.items() if reason.status is not None}
    assert refused == set(called) | COMPOSED


def test_every_end_of_the_engine_is_in_the_table() -> None:
    ends = {name for name, reason in reasons.REASONS.items() if reason.ends}
    assert set(_native.END_REASONS) == ends


def test_no_reason_is_of_no_use() -> None:
    """Each one ends a session or refuses a call, or cuts it off, and says what it is."""
    for name, reason in reasons.REASONS.items():
        assert reason.ends or reason.status is not None or name in CUT_OFF, name
        assert reason.title, name
        assert reason.sentence, name
        assert reason.sentence[0].islower() or reason.sentence.startswith("Auth"), name
        assert not reason.sentence.endswith("."), name
        assert not (FOREIGN | NO_CALLS) & {name}
        # A close that a client may try again after is one of a refusal or of an error.
        assert reason.retry is None or reason.kind not in ("over", "key"), name


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("client", 1000),
        ("idle", 1000),
        ("garbage", 1003),
        ("revoked", 1008),
        ("key_rate", 1008),
        ("error", 1011),
        ("draining", 1012),
        ("full", 1013),
    ],
)
def test_close_codes_are_those_of_the_protocol(name: str, code: int) -> None:
    assert reasons.close_code(name) == code


def test_an_unknown_reason_is_an_error_inside() -> None:
    assert reasons.close_code("never heard of") == 1011
    assert reasons.close_code("never heard of", 1008) == 1008
    assert not reasons.is_silent("never heard of")
    assert reasons.sentence_of("never heard of") == ""


def test_only_ends_that_the_client_brought_about_are_silent() -> None:
    assert {name for name in reasons.REASONS if reasons.is_silent(name)} == {"client", "finished"}


def test_the_page_has_the_same_table() -> None:
    assert page_reasons.PAGE.read_text() == page_reasons.javascript(), (
        "run `python -m tools.page_reasons`"
    )


def test_the_documentation_has_the_close_codes() -> None:
    page = (Path(__file__).parents[2] / "docs" / "server.md").read_text()
    section = page[page.index("Closing: 1000") :].split("\n## ")[0]
    codes = re.split(r"\b(10\d\d)\b", section)[1:]
    said = {
        name: int(code)
        for code, words in zip(codes[::2], codes[1::2], strict=True)
        for name in re.findall(r"`([a-z_]+)`", words)
        if name in reasons.REASONS
    }
    assert said.items() <= {n: r.close for n, r in reasons.REASONS.items()}.items()
    assert {name for name, reason in reasons.REASONS.items() if reason.ends} <= set(said)
