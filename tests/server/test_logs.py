"""The log: its two forms, and that nothing secret or private gets into it."""

from __future__ import annotations

import io
import json
import logging
import re
from typing import Any

import numpy as np
import pytest

from kaiwa.server import logs
from kaiwa.server.key_entry import new_secret
from kaiwa.server.redaction import redact
from kaiwa.server.tokens import LocalTokens

KEY = new_secret()
TOKEN = LocalTokens(60).issue("a", 0).text
RESUME = "Zm9vYmFy-resume-1"

pytestmark = pytest.mark.usefixtures("clean_logging")


def start(form: str = "text", level: str = "debug") -> io.StringIO:
    """The log in a buffer, without the handlers of pytest, which raise what does not fit."""
    root = logging.getLogger()
    root.handlers[:] = [h for h in root.handlers if h.get_name() == logs.__name__]
    stream = io.StringIO()
    logs.set_up(form, level, stream)
    return stream


class Later(logging.Handler):
    """A handler that comes after ours."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(record)


LEAKS = [
    f"Authorization: Bearer {KEY}",
    f"authorization: bearer {KEY}",
    "Authorization: Basic dXNlcjpwYXNz",
    f"[(b'host', b'x'), (b'authorization', b'Bearer {KEY}'), (b'accept', b'*/*')]",
    f"{{'authorization': 'Bearer {KEY}', 'accept': '*/*'}}",
    f'{{"Authorization": "{RESUME}"}}',
    f"Cookie: session={RESUME}",
    f"key {KEY} is unknown",
    f"/api/chat?{KEY}",
    f"/api/chat?token={TOKEN}",
    f"/api/chat?token={TOKEN.replace('_', '%5F', 1)}",
    f"/api/chat?seed=1&token={TOKEN}&format=pcm",
    f"/api/chat?token={RESUME}",
    f"/api/chat?resume={RESUME}",
    f"/api/chat?Resume={RESUME}&client=kaiwa",
    f"/api/chat?auth_id={RESUME}",
    f"/login?next=%2Fapi%2Fchat%3Ftoken%3D{TOKEN}",
    f"/login?next=%2Fapi%2Fchat%3Fresume%3D{RESUME}",
    f"x{KEY}",
    f"/api/chat?worker_auth_id={RESUME}",
    f"/api/chat?api_key={RESUME}&x=1",
    f"/api/chat?key={RESUME}",
    f"/api/chat?email={RESUME}",
    f"/api/chat?text_prompt={RESUME}",
    f"wss://kaiwa.example/api/chat?token={TOKEN}#x",
    f"ws://localhost:8998/api/chat?resumable=1&resume={RESUME}",
    f'metadata {{"session_id": "a1", "resume_token": "{RESUME}", "resume_seconds": 15}}',
    f"{{'token': '{RESUME}', 'expires_at': 1}}",
    f"sec-websocket-protocol: realtime, openai-insecure-api-key.{RESUME}",
]
SECRETS = (KEY, KEY[3:], TOKEN, TOKEN[3:], RESUME, "dXNlcjpwYXNz")


def no_secret_in(text: str) -> bool:
    return not any(secret in text for secret in SECRETS)


@pytest.mark.parametrize("text", LEAKS, ids=range(len(LEAKS)))
def test_redaction(text: str) -> None:
    cleaned = redact(text)
    assert no_secret_in(cleaned)
    assert "***" in cleaned
    assert redact(cleaned) == cleaned


@pytest.mark.parametrize(
    "text",
    [
        'GET /api/chat?seed=1&format=pcm&resumable=1 HTTP/1.1" 101',
        "kw_ and kt_ begin keys and tokens",
        "the key alice was revoked; key_name=alice",
        "max_tokens=5 slots=8 step 0.06 s",
        "send a key as `Authorization` or ?token",
        "会話を始めます",
        "",
    ],
)
def test_what_is_harmless_stays(text: str) -> None:
    assert redact(text) == text


def test_what_is_around_a_secret_stays() -> None:
    line = f'1.2.3.4 - "GET /api/chat?seed=1&token={TOKEN}&format=pcm HTTP/1.1" 101'
    assert redact(line) == '1.2.3.4 - "GET /api/chat?seed=1&token=***&format=pcm HTTP/1.1" 101'


def test_redaction_takes_linear_time() -> None:
    for text in (
        "a_" * 50_000,
        "token" * 20_000,
        "=" * 100_000,
        "'token':" * 10_000,
        " bearer" * 9000,
    ):
        redact(text)


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("text", LEAKS, ids=range(len(LEAKS)))
def test_no_way_of_logging_leaks(form: str, text: str) -> None:
    stream = start(form)
    log = logging.getLogger("kaiwa.server")
    log.info(text)
    log.info("called with %s", text)
    log.info("%(url)s", {"url": text})
    log.info("called with %r", [text, {"x": (text,)}])
    log.info(text.replace("%", "%%") + " %s", 7)
    log.info("said", extra={"reason": text, "headers": {"authorization": text}})
    log.info("object %s", ValueError(text))
    log.warning("does not fit %d", text)
    log.warning("does not fit either %s %s", text)
    try:
        raise RuntimeError(text)
    except RuntimeError:
        log.exception("failed")
    log.info("stack %s", text, stack_info=True)
    written = stream.getvalue()
    assert written.count("called with") == 2
    assert "RuntimeError: " in written
    assert no_secret_in(written)


def test_a_parameter_split_over_message_and_argument_is_hidden() -> None:
    stream = start()
    logging.getLogger("kaiwa").info("connect /api/chat?resume=%s", RESUME)
    logging.getLogger("kaiwa").info("Authorization: %s", RESUME)
    assert no_secret_in(stream.getvalue())
    assert "connect /api/chat?resume=***" in stream.getvalue()


def test_the_access_log_of_uvicorn_is_redacted_and_stays_whole() -> None:
    stream = start()
    later = Later()
    logging.getLogger().addHandler(later)
    arguments = ("1.2.3.4:5", "GET", f"/api/chat?token={TOKEN}", "1.1", 101)
    logging.getLogger("uvicorn.access").info('%s - "%s %s HTTP/%s" %d', *arguments)
    assert stream.getvalue().endswith(
        'INFO uvicorn.access: 1.2.3.4:5 - "GET /api/chat?token=*** HTTP/1.1" 101\n'
    )
    # Formatters that take the arguments apart still can, and see nothing either.
    assert later.seen[0].args == ("1.2.3.4:5", "GET", "/api/chat?token=***", "1.1", 101)


def test_sound_is_never_written() -> None:
    stream = start("json")
    pcm = np.arange(1920, dtype=np.float32)
    for value in (b"OggS\x00secret", bytearray(b"OggS"), memoryview(b"OggS"), pcm):
        logging.getLogger("kaiwa").info("frame %s", value, extra={"bytes": value})
    text = stream.getvalue()
    assert "Ogg" not in text
    assert "1919" not in text
    messages = [json.loads(line)["message"] for line in text.splitlines()]
    assert messages == [f"frame <{size} bytes>" for size in (11, 4, 4, 7680)]


def test_numbers_stay_numbers() -> None:
    stream = start("json")
    logging.getLogger("kaiwa").info(
        "%d %.2f %s", np.int64(3), np.float32(0.5), np.array(7), extra={"frames": np.int64(4)}
    )
    line = json.loads(stream.getvalue())
    assert line["message"] == "3 0.50 7"
    assert line["frames"] == 4


@pytest.mark.parametrize("name", ["uvicorn.error", "websockets.server", "asyncio", "httpx"])
def test_what_goes_over_the_wire_is_never_written(name: str) -> None:
    stream = start("text", "debug")
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.DEBUG)
    try:
        logger.debug("< TEXT '%s' [5 bytes]", "hello")
        logger.warning("connection lost")
    finally:
        logger.setLevel(before)
    assert "hello" not in stream.getvalue()
    assert "connection lost" in stream.getvalue()


def test_only_known_facts_are_written() -> None:
    stream = start("json")
    logging.getLogger("kaiwa").info(
        "ended", extra={"session": "a1", "reason": "idle", "said": "private words", "slot": 0}
    )
    text = start("text")
    logging.getLogger("kaiwa").info("ended", extra={"session": "a1", "said": "private words"})
    line = json.loads(stream.getvalue())
    assert (line["session"], line["reason"], line["slot"]) == ("a1", "idle", 0)
    assert "private" not in stream.getvalue() + text.getvalue()
    assert text.getvalue().endswith("INFO kaiwa: ended session=a1\n")


def test_long_messages_are_cut() -> None:
    stream = start()
    logging.getLogger("kaiwa").info("x" * 100_000)
    assert len(stream.getvalue()) < logs.MAX_MESSAGE + 200
    assert "(100000 characters)" in stream.getvalue()


@pytest.mark.parametrize("form", ["text", "json"])
def test_lines_cannot_be_forged(form: str) -> None:
    stream = start(form)
    forged = "x\n2030-01-01T00:00:00.000Z INFO kaiwa: forged\r\u2028\x1b[31m\ud800"
    logging.getLogger("kaiwa").info("user agent %s", forged, extra={"reason": forged})
    written = stream.getvalue()
    assert written.endswith("\n")
    assert len(written.splitlines()) == 1
    assert "\x1b" not in written
    written.encode("utf-8")


def test_text_lines() -> None:
    stream = start()
    logging.getLogger("kaiwa.server").warning("full", extra={"queue": 8})
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z WARNING kaiwa.server: full queue=8\n",
        stream.getvalue(),
    )


def test_json_lines() -> None:
    stream = start("json")
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger("kaiwa").exception("failed\nbadly 日本", extra={"code": "error"})
    line: dict[str, Any] = json.loads(stream.getvalue())
    assert list(line) == ["time", "level", "logger", "message", "code", "exception"]
    assert (line["level"], line["message"]) == ("error", "failed\nbadly 日本")
    assert line["exception"].endswith("ValueError: why")


@pytest.mark.parametrize(
    ("level", "heard"),
    [("debug", "diwe"), ("info", "iwe"), ("warning", "we"), ("error", "e")],
)
def test_levels(level: str, heard: str) -> None:
    stream = start("json", level)
    log = logging.getLogger("kaiwa.server.some")
    for word, say in (("d", log.debug), ("i", log.info), ("w", log.warning), ("e", log.error)):
        say(word)
    assert "".join(json.loads(x)["message"] for x in stream.getvalue().splitlines()) == heard
    # Other libraries: nothing below a warning.
    logging.getLogger("some.library").info("chatter")
    if level != "debug":
        logging.getLogger("uvicorn.error").info("chatter about every connection")
    assert "chatter" not in stream.getvalue()


def test_a_second_set_up_replaces_the_first() -> None:
    first, second = start(), start()
    logging.getLogger("kaiwa").info("once")
    assert first.getvalue() == ""
    assert second.getvalue().count("once") == 1
