"""A first call to Kaiwa, for people: `python -m tools.demo`, what `scripts/demo` runs.

Starts `kaiwa serve` with the demo model, calls it with a recorded question, prints what was asked
and what was answered as it is heard, and leaves both sides as sound files. Then the server stays,
and its page can be opened; with `--once` it is ended.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from kaiwa.client import FRAME, FRAME_SECONDS, SAMPLE_RATE, connect
from kaiwa.client.conversation import Conversation
from kaiwa.errors import KaiwaError
from tools.recorded_call import SECONDS, Line, spoken

ROOT = Path(__file__).parents[1]
OUT = ROOT / "target" / "demo"
PORT = 8998
#: Seconds that the server may take until it is ready; with the demo model it needs one.
READY_SECONDS = 120.0

Array = npt.NDArray[np.float32]


def free(port: int) -> bool:
    """Whether a port of this machine can be listened at."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def any_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
    return number


@contextmanager
def serving(port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server with the demo model, ready for calls; it ends with the block."""
    command = [sys.executable, "-m", "kaiwa.cli", "serve", "--model", "demo", "--port", str(port)]
    with (
        log.open("wb") as written,
        subprocess.Popen(command, stdout=written, stderr=written) as server,
    ):
        try:
            wait_until_ready(server, port, log)
            yield server
        finally:
            if server.poll() is None:
                server.terminate()
                server.wait(timeout=30)


def wait_until_ready(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Waits until the server answers that its model is loaded."""
    until = time.monotonic() + READY_SECONDS
    while time.monotonic() < until:
        if server.poll() is not None:
            last = log.read_text(errors="replace").strip().splitlines()[-1:]
            raise SystemExit(f"demo: the server ended: {''.join(last) or 'it said nothing'}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/startupz", timeout=2):
                return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.1)
    raise SystemExit(f"demo: the server was not ready after {READY_SECONDS:.0f} s; see {log}")


class Transcript:
    """Prints who says what while the call goes on: a line when it is complete."""

    def __init__(self, asked: list[Line]) -> None:
        self._asked = list(asked)
        self._words = ""
        self._began = self._last = 0.0
        self.answers: list[Line] = []

    def text(self, at: float, piece: str) -> None:
        """A piece of what the model says, at a second of the call."""
        if self._words and at - self._last > 1.0:
            self._end_line()
        if not self._words:
            self._began = at
        self._words += piece
        self._last = at

    def now(self, at: float) -> None:
        """The call has come to this second."""
        if self._words and at - self._last > 1.0:
            self._end_line()
        while self._asked and self._asked[0].at <= at:
            self._end_line()
            print(f"  {self._asked.pop(0)}", flush=True)

    def end(self) -> None:
        """The call is over."""
        self._end_line()

    def _end_line(self) -> None:
        if self._words.strip():
            line = Line(self._began, "kaiwa", " ".join(self._words.split()))
            self.answers.append(line)
            print(f"  {line}", flush=True)
        self._words = ""


async def call(port: int, audio: Array, transcript: Transcript) -> Array:
    """Calls as a caller would, in real time; gives what was answered, mono at 24 kHz."""
    heard: list[Array] = []
    frames = 0

    def frame() -> None:
        nonlocal frames
        frames += 1
        transcript.now(frames * FRAME_SECONDS)

    async with connect(f"ws://127.0.0.1:{port}", params={"seed": "1"}) as chat:
        talk = Conversation(
            chat,
            pace="realtime",
            on_audio=heard.append,
            on_text=transcript.text,
            on_frame=frame,
        )
        padded = np.pad(audio, (0, -len(audio) % FRAME))
        await talk.run(iter(padded.reshape(-1, FRAME)))
    transcript.end()
    return np.concatenate(heard) if heard else np.zeros(0, np.float32)


def demonstrate(port: int | None, once: bool, out: Path) -> None:
    """The whole demonstration."""
    if port is not None and not free(port):
        raise SystemExit(
            f"demo: port {port} is in use; end what listens there, or name another: "
            "scripts/demo --port 9000"
        )
    port = any_port() if port is None else port
    out.mkdir(parents=True, exist_ok=True)
    print("demo: starting kaiwa serve with the model that comes with Kaiwa", flush=True)
    with serving(port, out / "server.log") as server:
        audio, asked = spoken()
        print(f"demo: calling it, {SECONDS:.0f} s in real time", flush=True)
        transcript = Transcript(asked)
        try:
            answer = asyncio.run(call(port, audio, transcript))
        except KaiwaError as error:
            raise SystemExit(f"demo: {error}") from None
        for name, sound in (("question.wav", audio), ("answer.wav", answer)):
            soundfile.write(out / name, sound, SAMPLE_RATE)
        print(f"demo: what was asked:    {shown(out / 'question.wav')}")
        print(f"demo: what was answered: {shown(out / 'answer.wav')}", flush=True)
        if not transcript.answers:
            raise SystemExit(f"demo: the model answered nothing; see {out / 'server.log'}")
        if not once:
            print(f"demo: open http://127.0.0.1:{port} and talk to it; Ctrl-C ends the server")
            print("demo: it knows digits and small sums; docs/demo-model.md says more", flush=True)
            try:
                server.wait()
            except KeyboardInterrupt:
                print("\ndemo: ending", flush=True)


def shown(path: Path) -> str:
    """A path as short as it can be written."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def main(arguments: list[str] | None = None) -> None:
    """Reads the options."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__.split("\n\n")[1])
    parser.add_argument("--once", action="store_true", help="end the server after the call")
    parser.add_argument(
        "--port", type=int, help=f"port of the page (default: {PORT}; with --once any free one)"
    )
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the sound files")
    args = parser.parse_args(arguments)
    port = args.port if args.port or args.once else PORT
    demonstrate(port, args.once, args.out)


if __name__ == "__main__":
    main()
