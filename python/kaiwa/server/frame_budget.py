"""How many websocket frames one connection may send."""

from __future__ import annotations

#: Frames a second that a connection may send for as long as it likes. A client that sends sound
#: every 10 ms, and a ping with each message, sends 200.
FRAMES_PER_SECOND = 500.0
#: Frames that may come at once, as after a pause of the network.
BURST = 2000.0
#: Payloads of so many bytes are limited by what they hold: sound that comes faster than it is
#: heard, and messages without meaning, end a call. The smallest page of Ogg has more.
SMALL = 28
#: What a larger frame costs. Files are sent as fast as the model takes them.
LARGE_COST = 1 / 16


class FrameBudget:
    """A token bucket over frames: what was not used is saved up to `BURST`."""

    def __init__(self, now: float) -> None:
        """A full one.

        Args:
            now: seconds on a clock that never goes back.
        """
        self._left = BURST
        self._at = now

    def spend(self, small: int, large: int, now: float) -> bool:
        """Counts frames; False if they are more than the connection may send.

        Args:
            small: frames with less than `SMALL` bytes of payload, and all pings and pongs.
            large: others.
            now: seconds on the same clock.
        """
        self._left = min(BURST, self._left + (now - self._at) * FRAMES_PER_SECOND)
        self._at = now
        self._left -= small + large * LARGE_COST
        return self._left >= 0
