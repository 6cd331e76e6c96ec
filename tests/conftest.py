"""What all tests share: the reference case and a model made of it."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

import kaiwa

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def mimi_small() -> Path:
    """Folder of the small reference codec: config.json, weights, expected.safetensors."""
    return DATA / "mimi_small"


@pytest.fixture(scope="session")
def golden(mimi_small: Path) -> dict[str, NDArray[Any]]:
    """Inputs and outputs of the PyTorch reference (package moshi 0.2.13)."""
    return load_file(mimi_small / "expected.safetensors")


@pytest.fixture(scope="session")
def mimi(mimi_small: Path) -> kaiwa.Mimi:
    return kaiwa.Mimi.from_pretrained(mimi_small, device="cpu")


@pytest.fixture(scope="session")
def pcm(golden: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    return golden["pcm"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--swarm", action="store_true", help="also bring up a stack on a Docker Swarm (minutes)"
    )


def pytest_configure() -> None:
    """The processes in which pytest-xdist runs tests ignore Ctrl-C, and so would every program that
    the tests start and interrupt."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
