"""Takes the picture of a call that the documentation shows: `python -m tools.call_picture`.

The demo model listens to a recorded caller (a voice that it was not trained with), and `kaiwa plot`
draws the call to docs/images/call.png.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import soundfile
from training.clips import RATE

from kaiwa.cli import main
from tools.recorded_call import spoken

OUT = Path(__file__).parents[1] / "docs" / "images" / "call.png"


def draw(out: Path) -> None:
    """Makes the call and draws it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        caller, answer = folder / "caller.wav", folder / "answer.wav"
        text, times = folder / "answer.jsonl", folder / "times.jsonl"
        soundfile.write(caller, spoken()[0], RATE)
        files = ["--text", str(text), "--timing", str(times)]
        call = ["run", str(caller), str(answer), "--model", "demo", "--seed", "1", *files]
        title = ["--title", "A call to the demo model"]
        picture = [
            "plot",
            str(answer),
            str(out),
            "--caller",
            str(caller),
            "--codes",
            *files,
            *title,
        ]
        for command in (call, picture):
            if main([*command, "--quiet"]) != 0:
                raise SystemExit(f"kaiwa {command[0]} failed")


if __name__ == "__main__":
    draw(OUT)
