"""The log: lines of text or JSON on standard error, without anything secret or private.

Keys, tokens, `Authorization` headers and the queries that hold tokens are hidden; audio is never
written, nor what was said. That holds for the loggers of the libraries too, once they have no
handlers of their own (uvicorn: `log_config=None`).
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from numbers import Number
from typing import Any, TextIO

from kaiwa.server.redaction import redact

#: Facts that a message of Kaiwa may carry with `extra=`; others are left out of the log.
FIELDS = (
    "session",
    "key_name",
    "protocol",
    "model",
    "code",
    "reason",
    "status",
    "slot",
    "slots",
    "queue",
    "seconds",
    "frames",
    "bytes",
    "address",
)

#: Longest message, in characters.
MAX_MESSAGE = 4000

# Libraries whose debug messages hold what goes over the wire.
_VERBOSE = (
    "uvicorn",
    "websockets",
    "wsproto",
    "httptools",
    "h11",
    "httpx",
    "httpcore",
    "asyncio",
)


class Redaction(logging.Filter):
    """Takes everything secret out of records, and drops those that hold what goes over the wire.

    The record itself is changed, so that handlers that come later see no more.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record may be written."""
        if record.levelno < logging.INFO and record.name.split(".")[0] in _VERBOSE:
            return False
        if isinstance(record.args, Mapping):
            record.args = {name: _clean(value) for name, value in record.args.items()}
        elif record.args:
            record.args = tuple(_clean(value) for value in record.args)
        message, whole = _message(record), True
        cleaned = redact(message)
        if len(cleaned) > MAX_MESSAGE:
            cleaned, whole = f"{cleaned[:MAX_MESSAGE]}... ({len(cleaned)} characters)", False
        if cleaned != message or not whole or not isinstance(record.msg, str):
            # Else arguments stay as they are: some formatters take them apart.
            record.msg, record.args = cleaned, ()
        for name, value in vars(record).items():
            if name not in _RECORD_FIELDS:
                setattr(record, name, _clean(value))
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        record.exc_text = redact(record.exc_text) if record.exc_text else None
        record.exc_info = None
        record.stack_info = redact(record.stack_info) if record.stack_info else None
        return True


class TextFormatter(logging.Formatter):
    """`2030-01-31T12:00:00.123Z INFO kaiwa.server: message session=a1b2`, one line a record."""

    def format(self, record: logging.LogRecord) -> str:
        """The line; a traceback follows on lines of its own."""
        facts = "".join(f" {name}={value}" for name, value in _facts(record).items())
        text = _visible(record.getMessage() + facts)
        line = f"{_time(record)} {record.levelname} {record.name}: {text}"
        return "\n".join(filter(None, (line, record.exc_text, record.stack_info)))


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, the facts, exception."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_facts(record),
        }
        if record.exc_text:
            line["exception"] = record.exc_text
        if record.stack_info:
            line["stack"] = record.stack_info
        return json.dumps(line, default=str)


def set_up(form: str, level: str, stream: TextIO | None = None) -> logging.Handler:
    """Sends every message of the process to one handler; a second call replaces the first.

    Args:
        form: `text` or `json`.
        level: least serious messages of Kaiwa: `debug`, `info`, `warning`, `error`. Other
            libraries are heard from `warning`, uvicorn with `debug` from `info`.
        stream: where to write; None is standard error.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.set_name(__name__)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    handler.addFilter(Redaction())
    root = logging.getLogger()
    for former in [h for h in root.handlers if h.get_name() == __name__]:
        root.removeHandler(former)
    root.addHandler(handler)
    least = logging.getLevelName(level.upper())
    root.setLevel(max(least, logging.WARNING))
    logging.getLogger("kaiwa").setLevel(least)
    # Kaiwa logs every call itself, with more facts.
    uvicorn_level = least if least < logging.INFO else max(least, logging.WARNING)
    logging.getLogger("uvicorn").setLevel(uvicorn_level)
    return handler


_RECORD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


def _message(record: logging.LogRecord) -> str:
    """The message with its arguments; one that cannot be put together must not raise, nor be
    printed with its arguments as `logging` would.
    """
    try:
        return record.getMessage()
    except Exception:
        record.msg, record.args = f"(arguments do not fit) {record.msg}", ()
        return str(record.msg)


def _clean(value: Any) -> Any:
    """A value that may be written: numbers as they are, text redacted, bytes and arrays only by
    their size.
    """
    if isinstance(value, str):
        return redact(value)
    if hasattr(value, "__array__") and getattr(value, "ndim", None) == 0:
        return _clean(value.item())
    if value is None or isinstance(value, Number):
        return value
    if isinstance(value, (bytes, bytearray, memoryview)) or hasattr(value, "__array__"):
        return f"<{getattr(value, 'nbytes', None) or len(value)} bytes>"
    if isinstance(value, (list, tuple)):
        return type(value)(map(_clean, value)) if type(value) in (list, tuple) else _safe(value)
    if isinstance(value, Mapping):
        return {_clean(name): _clean(item) for name, item in value.items()}
    return _safe(value)


def _safe(value: Any) -> str:
    """Anything else as text."""
    try:
        return redact(str(value))
    except Exception:
        return f"<{type(value).__name__}>"


def _facts(record: logging.LogRecord) -> dict[str, Any]:
    """What the message carries besides its text."""
    return {name: vars(record)[name] for name in FIELDS if vars(record).get(name) is not None}


def _time(record: logging.LogRecord) -> str:
    """When it was logged: UTC, ISO 8601, milliseconds."""
    when = datetime.fromtimestamp(record.created, timezone.utc)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _visible(text: str) -> str:
    """Text without line breaks and other controls, with which a caller could forge lines."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
