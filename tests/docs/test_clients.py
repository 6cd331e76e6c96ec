"""The examples of docs/clients.md against a running server: digits come back, read and heard."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tests.demo.call import Asked, ask
from tests.demo.conftest import DATA
from tests.server.live import Live, running
from training.clips import DIGITS, TEENS
from training.conversations import Callers
from training.listener import Listener

from training import callers

PAGE = Path(__file__).parents[2] / "docs" / "clients.md"


def examples() -> dict[str, str]:
    """The Python blocks by the headings above them."""
    parts = re.split(r"^## (.+)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    found = {}
    for heading, text in zip(parts[::2], parts[1::2], strict=True):
        blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        if blocks:
            found[heading] = "\n".join(blocks)
    for heading, block in found.items():
        if "asyncio.run" not in block:
            found[heading] = in_place_of(found[heading.partition(",")[0]], block)
    return found


def in_place_of(example: str, lines: str) -> str:
    """An example without waiting for the beginning, and with lines of another block, each in place
    of the one that begins as it does: an import from the same package, an assignment to the same
    name."""
    example = "\n".join(line for line in example.splitlines() if "begun" not in line)
    for line in lines.splitlines():
        start = re.match(r"from [a-z]+\.services|\s*\w+ = ", line)
        assert start is not None, line
        (old,) = [known for known in example.splitlines() if known.startswith(start[0])]
        example = example.replace(old, line)
    return example


@pytest.fixture(scope="module")
def demo() -> Iterator[Live]:
    with running(model="demo", slots=8, temp=0, temp_text=0) as live:
        yield live


@pytest.fixture(scope="module")
def asked() -> Asked:
    return ask(Callers(callers.read(DATA)), "espeak:m3", [8, 1, 7, 9], tail=0)


@pytest.fixture(scope="module")
def said(demo: Live, asked: Asked, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs all examples, several at a time because they last as long as a call."""

    # Made here, since pytest's folders are not made for threads.
    folders = {name: tmp_path_factory.mktemp(re.sub(r"\W+", "_", name)) for name in examples()}

    def run(heading: str) -> None:
        folder = folders[heading]
        soundfile.write(folder / "question.wav", asked.audio, 24_000, subtype="PCM_16")
        source = examples()[heading].replace("8998", str(demo.port))
        done = subprocess.run(
            [sys.executable, "-c", source],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        (folder / "printed").write_text(done.stdout)
        (folder / "failed").write_text(done.stderr if done.returncode else "")

    # More at a time would need more than two cores have, for all the packages are imported first.
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(run, folders))
    return folders


@pytest.mark.parametrize("heading", examples())
def test_digits_come_back(said: dict[str, Path], asked: Asked, heading: str) -> None:
    folder = said[heading]
    assert (folder / "failed").read_text() == ""
    text = re.sub(r"^\s*hello", "", (folder / "printed").read_text()).split()
    assert text == asked.words
    answer, rate = soundfile.read(folder / "answer.wav", dtype="float32")
    assert rate == 24_000
    # Protocols with turns leave the pauses out: the greeting, which is another word, comes first.
    vocabulary = (*DIGITS, *TEENS, "hello")
    heard = Listener(vocabulary).words(np.asarray(answer))
    assert [word for word in heard if word != "hello"] == asked.words
