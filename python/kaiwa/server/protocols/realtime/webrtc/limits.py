"""How much of what a peer sends is taken in; what is beyond ends its call.

The packets of a call are decrypted and parsed by the event loop that serves everyone, and the
packages below limit neither their number nor what they collect.
"""

from __future__ import annotations

from collections.abc import Callable

#: Packets that a call may send: a second for as long as it likes, and at once, as after a pause of
#: the network. Sound needs 50 or 100 a second, events a few.
PACKETS_PER_SECOND, PACKETS_AT_ONCE = 250.0, 1000.0
#: Pieces of messages on data channels, likewise. Many fit into a packet.
PIECES_PER_SECOND, PIECES_AT_ONCE = 100.0, 500.0
#: Pieces that may wait for the rest of their messages.
MOST_WAITING = 256


class Bucket:
    """A token bucket: what is not used is saved up."""

    def __init__(self, per_second: float, at_once: float, now: float) -> None:
        self._per_second, self._most = per_second, at_once
        self._left, self._at = at_once, now

    def spend(self, count: int, now: float) -> bool:
        """Takes so many; False if there are fewer."""
        self._left = min(self._most, self._left + (now - self._at) * self._per_second) - count
        self._at = now
        return self._left >= 0


class Intake:
    """What comes in for one call.

    Attributes:
        heard_at: when the last packet came.
        closed: nothing is taken in any more.
    """

    def __init__(self, clock: Callable[[], float], flooded: Callable[[], None]) -> None:
        """Nothing came yet.

        Args:
            clock: seconds, never going back.
            flooded: called once when the peer has sent too much.
        """
        self._clock, self._flooded = clock, flooded
        now = clock()
        self._packets = Bucket(PACKETS_PER_SECOND, PACKETS_AT_ONCE, now)
        self._pieces = Bucket(PIECES_PER_SECOND, PIECES_AT_ONCE, now)
        self.heard_at = now
        self.closed = False

    def packet(self) -> bool:
        """A packet came; whether it is to be looked at."""
        if self.closed:
            return False
        self.heard_at = self._clock()
        return self._packets.spend(1, self.heard_at) or self._over()

    def pieces(self, count: int, waiting: int) -> bool:
        """Pieces of messages came; whether they are to be looked at.

        Args:
            count: in this packet.
            waiting: pieces of earlier ones whose messages are not complete.
        """
        if self.closed:
            return False
        fits = waiting <= MOST_WAITING and self._pieces.spend(count, self._clock())
        return fits or self._over()

    def _over(self) -> bool:
        self.closed = True
        self._flooded()
        return False


def count_pieces(packet: bytes) -> int:
    """The DATA chunks of an SCTP packet (RFC 9260, 3)."""
    at, count = 12, 0
    while at + 4 <= len(packet):
        count += packet[at] == 0
        length = int.from_bytes(packet[at + 2 : at + 4], "big")
        at += max(4, (length + 3) // 4 * 4)
    return count
