"""What a person sees during a call: the text as it is said, and two level meters."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any

from kaiwa.client.live import FLOOR
from kaiwa.client.messages import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

#: Characters of a meter.
WIDTH = 20


def meter(level: float) -> str:
    """A level in dB below full scale as a bar."""
    filled = round(WIDTH * (1 - min(0.0, max(FLOOR, level)) / FLOOR))
    return "█" * filled + "·" * (WIDTH - filled)


class Captions:
    """Captions above a line of meters on a terminal; elsewhere only the text, as it comes.

    A context manager. `note` is shown beside the meters.
    """

    def __init__(self, *, terminal: bool | None = None) -> None:
        self.note = ""
        self._terminal = sys.stdout.isatty() if terminal is None else terminal
        self._line = ""
        self._levels = (FLOOR, FLOOR)
        self._live: Any = None
        self._said = False

    def __enter__(self) -> Captions:
        if self._terminal:
            from rich.live import Live

            self._live = Live(self.view(), auto_refresh=False, transient=True)
            self._live.start()
        return self

    def say(self, piece: str) -> None:
        """A piece of text."""
        piece = printable(piece)
        self._said = self._said or bool(piece)
        if self._live is None:
            print(piece, end="", flush=True)
            return
        self._line += piece
        width = max(20, self._live.console.width - 1)
        while len(self._line) > width:
            cut = self._line.rfind(" ", 1, width) if " " in self._line[1:width] else width
            self._live.console.print(self._line[:cut].strip(), markup=False, highlight=False)
            self._line = self._line[cut:]

    def levels(self, heard: float, said: float) -> None:
        """Levels of the microphone and of the answer, for the meters."""
        self._levels = (heard, said)
        if self._live is not None:
            self._live.update(self.view(), refresh=True)

    def view(self) -> RenderableType:
        """What is shown below the finished lines."""
        from rich.console import Group
        from rich.text import Text

        heard, said = map(meter, self._levels)
        return Group(
            Text(self._line.strip(), no_wrap=True),
            Text(f"you {heard}  Moshi {said}  {self.note}", no_wrap=True, style="dim"),
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live.console.print(self._line.strip(), markup=False, highlight=False)
        elif self._said:
            print(flush=True)
