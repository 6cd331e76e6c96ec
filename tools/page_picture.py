"""Takes the picture of the web page that the documentation shows: `python -m tools.page_picture`.

Starts `kaiwa serve` with the demo model, calls it from Chromium whose microphone hears a recorded
caller (a voice that the model was not trained with), and writes

- docs/images/page.png: the page while the model answers,
- docs/images/transcript.txt: who said what, and when in the call.

Needs Chromium (scripts/browser) and the development dependencies (scripts/setup).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import soundfile
from playwright.sync_api import Page, sync_playwright
from tests.server.live import program
from tests.web.conftest import BASE, chromium_path
from training.clips import RATE

from tools.recorded_call import TURNS, Line, spoken

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs" / "images"
WIDTH, HEIGHT, SCALE = 1120, 740, 2


class Listener:
    """Follows the captions of a call: each answer with the second at which it began."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._heard = 0
        self.lines: list[Line] = []

    def listen(self, wanted: str, seconds: float = 20.0) -> None:
        """Waits until the newest line ends with some words."""
        until = time.monotonic() + seconds
        while not (self.lines and self.lines[-1].words.endswith(wanted)):
            if time.monotonic() > until:
                raise SystemExit(f"the model did not say '{wanted}': {self.lines}")
            self._look()
            time.sleep(0.02)

    def next_line(self) -> None:
        """What comes from now on belongs to another line."""
        self.lines.append(Line(0.0, "kaiwa", ""))

    def _look(self) -> None:
        seen: dict[str, Any] = self._page.evaluate(
            "({ at: kaiwa.seconds, said: kaiwa.captions, state: kaiwa.state })"
        )
        if seen["state"] in ("ended", "error"):
            raise SystemExit(f"the call ended: {self._page.inner_text('#status')}")
        new = seen["said"][self._heard :]
        if not new.strip():
            return
        self._heard = len(seen["said"])
        line = self.lines.pop() if self.lines else Line(0.0, "kaiwa", "")
        at = line.at if line.words else seen["at"]
        self.lines.append(Line(at, "kaiwa", " ".join((line.words + new).split())))


def take(out: Path) -> None:
    """Calls, and writes picture and transcript."""
    audio, said = spoken()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, program() as server, sync_playwright() as driver:
        question = Path(folder) / "question.wav"
        soundfile.write(question, audio, RATE)
        browser = driver.chromium.launch(
            executable_path=chromium_path(),
            args=[
                *BASE,
                "--use-fake-device-for-media-stream",
                "--use-fake-ui-for-media-stream",
                f"--use-file-for-fake-audio-capture={question}%noloop",
            ],
        )
        page = browser.new_page(
            viewport={"width": WIDTH, "height": HEIGHT}, device_scale_factor=SCALE
        )
        page.goto(f"http://127.0.0.1:{server.port}/?seed=1")
        page.locator("#call").click()
        listener = Listener(page)
        listener.listen("hello")
        for _, _, answer in TURNS:
            listener.next_line()
            listener.listen(answer)
        page.screenshot(path=out / "page.png")
        browser.close()
    lines = sorted([*said, *listener.lines], key=lambda line: line.at)
    text = "".join(f"{line}\n" for line in lines)
    (out / "transcript.txt").write_text(text, encoding="utf-8")
    print(text, end="")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT, help="folder to write to")
    take(parser.parse_args().out)
