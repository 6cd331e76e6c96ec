"""Who is let in, counted over all servers.

The server's own memory is asked first: a limit that is reached on one server is reached over all,
so Redis is asked only about callers who would be let in here. While Redis does not answer, the
setting `redis_down` says whether this server's own limits are enough (`open`, the default) or
whether callers with keys are refused (`closed`).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from kaiwa.server.access import Access
from kaiwa.server.caller import Caller
from kaiwa.server.limits import Lease, LimitReached
from kaiwa.server.refusal import Refused
from kaiwa.server.shared.redis_client import SharedStateUnavailable
from kaiwa.server.shared.signed_tokens import SKEW
from kaiwa.server.shared.state import SharedState
from kaiwa.server.shared.used_once import TooManyUsed, UsedOnce

if TYPE_CHECKING:
    from kaiwa.server.shared.signing import Signer

#: Header by which a server vouches for a caller to another.
VOUCHER = "x-kaiwa-voucher"
#: Seconds that a voucher counts, besides the difference of clocks.
VOUCHER_SECONDS = 10.0
_VOUCHER_PURPOSE = "voucher"


class Admission:
    """`Access` of this server together with the shared state. Not for several threads at once."""

    def __init__(
        self,
        access: Access,
        *,
        model: Callable[[], str | None],
        signer: Signer | None = None,
        shared: SharedState | None = None,
        closed: bool = False,
        on_unanswered: Callable[[str], object] = lambda what: None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Lets in by `access` alone, unless there is a shared state.

        Args:
            access: what this server knows.
            model: gives the name of the model that calls are with; None if it is not loaded yet.
            signer: makes and checks vouchers; None if servers do not know one another.
            shared: what all servers know; None if there is only this one.
            closed: without an answer of the shared state callers with keys are refused.
            on_unanswered: called for each decision that was made without an answer of the shared
                state, with what it was about: `token`, `limits`.
            wall: seconds since 1970, on a clock that differs by at most `SKEW` between servers.
        """
        self._access = access
        self._model = model
        self._signer = signer
        self._shared = shared
        self._closed = closed
        self._on_unanswered = on_unanswered
        self._wall = wall
        self._vouchers = UsedOnce()

    async def authorize(
        self,
        headers: Mapping[str, str],
        query: Mapping[str, str],
        now: float,
        *,
        protocol: str | None = None,
    ) -> Caller:
        """Who sent a request; the token that it came with, if any, is used up everywhere.

        Args:
            headers: by lower-case names.
            query: parameters, decoded.
            now: seconds.
            protocol: of the call that is asked for; None if none is.

        Raises:
            Refused: 401, 403, or 503 if nobody can tell.
        """
        if self._signer is not None and VOUCHER in headers:
            return self._vouched(self._signer, headers, query.get("resume", ""), protocol)
        caller = self._access.authorize(headers, query, now, protocol=protocol)
        token = caller.token
        if self._shared is not None and token is not None:
            try:
                first = await self._shared.mark_used(token.id, token.until)
            except SharedStateUnavailable:
                self._unanswered("token")
            else:
                if not first:
                    raise self._access.bad_token()
        return caller

    async def enter(self, caller: Caller, now: float, *, held: Lease | None = None) -> Lease:
        """Counts a conversation of a caller; release the lease when it is over.

        Args:
            caller: from `authorize`.
            now: seconds.
            held: lease of the conversation that is taken up again, which is given back.

        Raises:
            Refused: 429, a limit of the key is reached; 403, the key is not for this protocol or
                model; 401, the key was revoked meanwhile; 503, nobody can tell.
        """
        lease = self._access.enter(caller, now, model=self._model(), held=held)
        shared = self._shared
        if shared is None or not caller.key_id:
            return lease
        counted = lease is held
        try:
            concurrency, per_minute = self._access.limits_of(caller)
            await shared.enter(
                caller.key_id,
                lease.id,
                concurrency=concurrency,
                per_minute=per_minute,
                counted=counted,
            )
        except BaseException as error:
            if isinstance(error, SharedStateUnavailable) and not self._closed:
                self._unanswered("limits")
            else:
                self._access.undo(lease, now, keep=counted)
                if isinstance(error, LimitReached):
                    raise self._access.limit_refusal(caller, error) from None
                if isinstance(error, SharedStateUnavailable):
                    self._unanswered("limits")
                raise
        if not counted:
            shared.add_lease(caller.key_id, lease.id)
            lease.on_release = lambda: shared.remove_lease(lease.id)
        return lease

    def vouch(self, caller: Caller, resume: str, owner: str) -> str:
        """Signed words that let a caller take up a call on the server that holds it.

        Args:
            caller: who asked this server.
            resume: the resume token of the call.
            owner: address of the server that holds it; on others the voucher does not count.
        """
        assert self._signer is not None
        value = {
            "id": secrets.token_urlsafe(12),
            "key": caller.key_id,
            "resume": resume,
            "to": owner,
            "end": round(self._wall() + VOUCHER_SECONDS, 3),
        }
        return self._signer.sign(_VOUCHER_PURPOSE, value)

    def _vouched(
        self, signer: Signer, headers: Mapping[str, str], resume: str, protocol: str | None
    ) -> Caller:
        """The caller for whom another server vouches, to take up one call, once.

        Raises:
            Refused: 403, the voucher does not count here; 401, the key is revoked or unknown.
        """
        value = signer.check(_VOUCHER_PURPOSE, headers[VOUCHER])
        said: dict[str, Any] = value if isinstance(value, dict) else {}
        here = self._shared.address if self._shared is not None else None
        wall = self._wall()
        counts = (
            bool(said)
            and (said["to"], said["resume"]) == (here, resume)
            and wall < said["end"] + SKEW <= wall + VOUCHER_SECONDS + 2 * SKEW
            # Servers send none: this is a web page, whose origin was not checked.
            and "origin" not in headers
            and self._use_voucher(said["id"], said["end"] + SKEW, wall)
        )
        if not counts:
            raise Refused(
                403,
                "voucher",
                "another server passed this call on with a signature that does not count here; "
                "give all servers the same token_secret_file, and the same time",
            )
        return self._access.vouched(said["key"], protocol)

    def _use_voucher(self, name: str, until: float, wall: float) -> bool:
        """Whether a voucher is used for the first time."""
        try:
            return self._vouchers.use(name, until, wall)
        except TooManyUsed:
            return False

    def _unanswered(self, what: str) -> None:
        """Goes on without an answer of the shared state.

        Raises:
            Refused: 503, if the setting `redis_down` says so.
        """
        self._on_unanswered(what)
        if self._closed:
            raise Refused(
                503,
                "shared_state",
                "the servers cannot count the calls of your key at present; try again shortly",
                5,
            )
