"""Opus for all tests here."""

from __future__ import annotations

import pytest
from tests.client import standin


@pytest.fixture(autouse=True)
def ogg_opus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ogg/Opus works in these tests."""
    standin.install(monkeypatch)
