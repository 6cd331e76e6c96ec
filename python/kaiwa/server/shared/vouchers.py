"""Vouchers: by these a server that passes on a lost call speaks for its caller.

The server that holds the call does not ask the caller for its key or token again, which the first
server has checked. A voucher counts once, soon, for one call and on one server.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kaiwa.server.shared.signed_tokens import SKEW
from kaiwa.server.shared.used_once import TooManyUsed, UsedOnce

if TYPE_CHECKING:
    from kaiwa.server.shared.signing import Signer

#: The header that holds a voucher, in lower case.
HEADER = "x-kaiwa-voucher"
#: Seconds that a voucher counts, besides the difference of clocks.
SECONDS = 10.0

_PURPOSE = "voucher"


class Vouchers:
    """Writes and checks vouchers. Not for several threads at once."""

    def __init__(
        self, signer: Signer, address: Callable[[], str | None], wall: Callable[[], float]
    ) -> None:
        """No voucher was used yet.

        Args:
            signer: holds the common secret.
            address: gives where other servers reach this one; None if they cannot.
            wall: seconds since 1970, on a clock that differs by at most `SKEW` between servers.
        """
        self._signer = signer
        self._address = address
        self._wall = wall
        self._used = UsedOnce()

    def issue(self, key_id: str, resume: str, owner: str) -> str:
        """A voucher.

        Args:
            key_id: id of the caller's key; empty if keys are not asked for.
            resume: resume token of the call.
            owner: address of the server that holds the call.
        """
        value = {
            "id": secrets.token_urlsafe(12),
            "key": key_id,
            "resume": resume,
            "to": owner,
            "end": round(self._wall() + SECONDS, 3),
        }
        return self._signer.sign(_PURPOSE, value)

    def redeem(self, text: str, resume: str) -> str | None:
        """The id of the caller's key, for a voucher that counts here for a call; else None.

        Args:
            text: the voucher, which is used up.
            resume: resume token of the call that is asked for.
        """
        value = self._signer.check(_PURPOSE, text)
        said: dict[str, Any] = value if isinstance(value, dict) else {}
        if not said or (said["to"], said["resume"]) != (self._address(), resume):
            return None
        wall, until = self._wall(), said["end"] + SKEW
        if not wall < until <= wall + SECONDS + 2 * SKEW:
            return None
        try:
            first = self._used.use(said["id"], until, wall)
        except TooManyUsed:
            return None
        return str(said["key"]) if first else None
