"""Runs the genuine `moshi.client` without a sound card: a stub of `sounddevice` feeds it a tone
frame by frame and counts what it plays. Prints one JSON line at the end.

Usage: moshi_client.py PORT SECONDS
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
import threading
import time
import types
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

FRAME = 1920
played: list[np.ndarray[Any, Any]] = []


class _Stream(ABC):
    """A sound stream whose clock is a thread."""

    def __init__(self, **options: Any) -> None:
        self._callback = options["callback"]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> _Stream:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()

    def _run(self) -> None:
        due, number = time.monotonic(), 0
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            self._frame(number)
            due, number = due + 0.08, number + 1

    @abstractmethod
    def _frame(self, number: int) -> None:
        """What happens every 80 ms."""


class InputStream(_Stream):
    def _frame(self, number: int) -> None:
        t = (np.arange(FRAME) + number * FRAME) / 24_000
        tone = (0.3 * np.sin(2 * np.pi * 440 * t)).astype(np.float32)
        self._callback(tone[:, None], FRAME, None, None)


class OutputStream(_Stream):
    def _frame(self, number: int) -> None:
        out = np.zeros((FRAME, 1), np.float32)
        self._callback(out, FRAME, None, None)
        played.append(out[:, 0].copy())


def main() -> None:
    stub: Any = types.ModuleType("sounddevice")
    stub.InputStream, stub.OutputStream = InputStream, OutputStream
    sys.modules["sounddevice"] = stub
    # The package itself imports torch; the client does not.
    spec = importlib.util.find_spec("moshi")
    assert spec is not None
    assert spec.origin is not None
    package: Any = types.ModuleType("moshi")
    package.__path__ = [str(Path(spec.origin).parent)]
    sys.modules["moshi"] = package
    client: Any = importlib.import_module("moshi.client")

    lines: list[str] = []

    class Printer:
        def __getattr__(self, name: str) -> Any:
            return lambda *args: lines.append(f"{name} {args}")

    async def converse() -> None:
        import aiohttp

        async with aiohttp.ClientSession() as session:
            url = f"ws://127.0.0.1:{sys.argv[1]}/api/chat"
            async with session.ws_connect(url) as socket:
                connection = client.Connection(Printer(), socket, asyncio.get_running_loop())
                running = asyncio.create_task(connection.run())
                # How long the client talks.
                await asyncio.sleep(float(sys.argv[2]))
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)

    asyncio.run(converse())
    sound = np.concatenate(played)
    heard = sound[np.abs(sound) > 0]
    print(json.dumps({"seconds": len(heard) / 24_000, "rms": float(np.sqrt(np.mean(heard**2)))}))
    print(json.dumps(lines))


if __name__ == "__main__":
    main()
