"""How much of what was sent the provider has not played yet, measured with marks.

A provider plays what it gets and keeps the rest, without a limit. Whatever came in a burst is
heard late for the rest of the call, unless the queue is emptied. The clock here is the audio
itself: frames that were sent after a mark, when the mark comes back, are those that wait.
"""

from __future__ import annotations

from collections import OrderedDict

#: Frames of 80 ms from one mark to the next: about a second.
MARK_EVERY = 12
#: Frames that may wait: 400 ms.
LIMIT = 5
#: Marks that may be on their way; a provider that sends none back is not measured.
PENDING = 30


class Playback:
    """The queue of the provider for one call."""

    def __init__(self) -> None:
        self._sent = 0
        self._pending: OrderedDict[str, int] = OrderedDict()
        self._cleared = False
        #: What was left after the queue was emptied: the way there and back, which stays.
        self._way = 0

    @property
    def frames(self) -> int:
        """Frames that were sent."""
        return self._sent

    def sent(self, frames: int) -> str | None:
        """Frames were sent; gives the name of a mark that is to be sent behind them, if any."""
        before, self._sent = self._sent, self._sent + frames
        if before // MARK_EVERY == self._sent // MARK_EVERY:
            return None
        name = f"frame-{self._sent}"
        self._pending[name] = self._sent
        if len(self._pending) > PENDING:
            self._pending.popitem(last=False)
        return name

    def played(self, name: str) -> bool:
        """A mark came back; whether the queue has to be emptied.

        Marks that are not known, or were on their way when the queue was emptied, say nothing.
        """
        at = self._pending.pop(name, None)
        if at is None:
            return False
        waiting = self._sent - at
        if self._cleared:
            self._cleared, self._way = False, waiting
            return False
        if waiting <= self._way + LIMIT:
            return False
        self._pending.clear()
        self._cleared = True
        return True
