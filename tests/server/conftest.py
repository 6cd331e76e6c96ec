"""Running servers, a file of keys, and ways to make settings and records."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.server.live import Live, running

from kaiwa.server import key_edits

#: 2030-01-01T00:00:00Z
NEW_YEAR = 1_893_456_000.0

MakeKey = Callable[..., str]


@pytest.fixture
def key_path(tmp_path: Path) -> Path:
    """Where the file of keys is to be."""
    return tmp_path / "keys.json"


@pytest.fixture
def make_key(key_path: Path) -> MakeKey:
    """Adds a key and gives back the key itself."""

    def make(name: str, **limits: Any) -> str:
        return key_edits.add(key_path, name, NEW_YEAR, **limits)[1]

    return make


@pytest.fixture
def clean_logging() -> Iterator[None]:
    """Gives a test loggers as Python makes them, and puts them back as they were.

    A server of an earlier test leaves traces: without an access log uvicorn mutes that logger.
    """
    loggers = [logging.getLogger(name) for name in (None, "kaiwa", "uvicorn", "uvicorn.access")]
    before = [(x, list(x.handlers), x.level, x.propagate) for x in loggers]
    for logger in loggers:
        logger.propagate = True
    yield
    for logger, handlers, level, propagate in before:
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logger.propagate = propagate


@pytest.fixture(scope="module")
def echo() -> Iterator[Live]:
    """A server without a model that says back what it hears."""
    with running() as live:
        yield live


@pytest.fixture(scope="module")
def tiny() -> Iterator[Live]:
    """A server with a tiny random model."""
    with running(model="synth:tiny") as live:
        yield live
