"""What becomes of a client that takes its audio late, or not at all."""

from __future__ import annotations

from enum import Enum, auto

#: Seconds that a client may be behind until nothing more is sent to it. What becomes too old
#: meanwhile is dropped in the engine's queue, before it is encoded ...
SLOW_CLIENT = 1.0
#: ... until the connection of a call that can be resumed counts as lost ...
LOST_CLIENT = 5.0
#: ... and until any other call ends.
STUCK_CLIENT = 8.0

#: What a client is told whose call ends for this.
TOO_SLOW = "audio was not taken for too long; read faster or use a better connection"


class Action(Enum):
    """What to do with a client."""

    SEND = auto()
    #: Send nothing until it has caught up.
    HOLD_BACK = auto()
    #: Break the connection, so that the call is held for the client to come back.
    DROP = auto()
    #: End the call (`slow_consumer`).
    END = auto()


def action(seconds_behind: float, *, resumable: bool) -> Action:
    """What to do with a client that is so far behind.

    Args:
        seconds_behind: how long it has not taken what was sent to it.
        resumable: its call could be held.
    """
    if resumable and seconds_behind > LOST_CLIENT:
        return Action.DROP
    if seconds_behind > STUCK_CLIENT:
        return Action.END
    if seconds_behind > SLOW_CLIENT:
        return Action.HOLD_BACK
    return Action.SEND
