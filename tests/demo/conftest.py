"""Callers that the demo model has not met, and someone who listens to its answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.demo.call import Asked, ask
from training.conversations import Callers
from training.listener import Listener

from training import callers, calls

DATA = Path(__file__).parents[1] / "data" / "demo" / "callers"

Scenes = Callable[[str, int], list[calls.Scene]]


@pytest.fixture(scope="session")
def strangers() -> Callers:
    """Voices that no part of the model was trained with."""
    return Callers(callers.read(DATA))


@pytest.fixture(scope="session")
def scenes(strangers: Callers) -> Scenes:
    """Calls of a kind: digits, sums or interrupted."""

    def make(kind: str, count: int) -> list[calls.Scene]:
        kinds = ("digits", "sums", "interrupted")
        rng = np.random.default_rng((2026, kinds.index(kind)))
        return [calls.scene(rng, strangers, kind) for _ in range(count)]

    return make


@pytest.fixture(scope="session")
def listener() -> Listener:
    return Listener()


@pytest.fixture(scope="session")
def asked(strangers: Callers) -> Asked:
    """One call that the model gets right, to be sent on every way there is."""
    return ask(strangers, "espeak:m3", [8, 1, 7, 9])
