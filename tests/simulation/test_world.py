"""Worlds: the same from the same seed, and sound."""

from __future__ import annotations

import asyncio
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from tools.simulation.__main__ import main
from tools.simulation.checks import Violation
from tools.simulation.loop import Process, Spinning, VirtualLoop
from tools.simulation.world import run_kind

ROOT = Path(__file__).parents[2]


def test_a_seed_gives_one_world() -> None:
    """In processes whose hashes, memory and random numbers differ."""
    code = "from tools.simulation.world import run_kind; print(run_kind(5, 'dense').digest)"
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=ROOT,
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1
    assert run_kind(6, "dense").digest not in digests


def test_the_command_says_how_to_see_a_world_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seed", "3", "--kind", "dense", "--workers", "1"]) == 0
    assert "hours of calls in 1 worlds" in capsys.readouterr().out


# ---- the loop ------------------------------------------------------------------------------------


def test_time_passes_only_when_there_is_nothing_to_do() -> None:
    loop = VirtualLoop()
    seen: list[float] = []

    async def wait(seconds: float) -> None:
        await asyncio.sleep(seconds)
        seen.append(loop.time())

    async def both() -> None:
        await asyncio.gather(wait(3600), wait(1))

    loop.run_until_complete(both())
    loop.close()
    assert seen == [1.0, 3600.0]


def test_a_process_that_stands_still_goes_on_in_order() -> None:
    loop = VirtualLoop()
    seen: list[tuple[int, float]] = []

    async def count(number: int) -> None:
        await asyncio.sleep(1 + number / 1000)
        seen.append((number, loop.time()))

    async def world() -> None:
        process = Process("p")
        tasks = [process.spawn(loop, count(number)) for number in range(3)]
        loop.exactly_at(0.5, setattr, process, "stopped", True)
        loop.exactly_at(7.0, loop.resume, process)
        await count(9)
        await asyncio.gather(*tasks)
        assert not process.tasks

    loop.run_until_complete(world())
    loop.close()
    assert seen == [(9, 1.009), (0, 7.0), (1, 7.0), (2, 7.0)]


def test_waiting_for_what_never_comes_is_found() -> None:
    loop = VirtualLoop()
    with pytest.raises(Spinning, match="nothing is left to wait for"):
        loop.run_until_complete(loop.create_future())
    loop.close()


def test_a_finding_goes_from_one_process_to_another() -> None:
    """As `tools/simulate` hands it on."""
    there = pickle.loads(pickle.dumps(Violation("ends", "twice")))
    assert (there.invariant, there.text, str(there)) == ("ends", "twice", "ends: twice")
