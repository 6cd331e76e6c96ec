"""Who is let in, counted over all servers.

The server's own memory is asked first: a limit that is reached on one server is reached over all,
so Redis is asked only about callers who would be let in here. While Redis does not answer, the
setting `redis_down` says whether this server's own limits are enough (`open`, the default) or
whether callers with keys are refused (`closed`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from kaiwa.server.access import Access
from kaiwa.server.caller import Caller
from kaiwa.server.limits import Lease, LimitReached
from kaiwa.server.refusal import Refused
from kaiwa.server.shared.redis_client import SharedStateUnavailable
from kaiwa.server.shared.state import SharedState
from kaiwa.server.shared.vouchers import HEADER as VOUCHER
from kaiwa.server.shared.vouchers import Vouchers

if TYPE_CHECKING:
    from kaiwa.server.shared.signing import Signer


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
            wall: seconds since 1970, on a clock that differs little between servers.
        """
        self._access = access
        self._model = model
        self._shared = shared
        self._closed = closed
        self._on_unanswered = on_unanswered
        self._vouchers: Vouchers | None = None
        if signer is not None:
            self._vouchers = Vouchers(signer, self._address, wall)

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
        # A key that was added a moment ago counts, and one that was revoked does not.
        await self._access.follow_keys()
        if self._vouchers is not None and VOUCHER in headers and protocol is not None:
            return self._vouched(self._vouchers, headers, query.get("resume", ""), protocol)
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

    def _address(self) -> str | None:
        """Where other servers reach this one; None if they cannot."""
        return self._shared.address if self._shared is not None else None

    def vouch(self, caller: Caller, resume: str, owner: str) -> str:
        """A voucher that lets a caller take up a call on the server that holds it.

        Args:
            caller: who asked this server.
            resume: the resume token of the call.
            owner: address of the server that holds it.
        """
        assert self._vouchers is not None
        return self._vouchers.issue(caller.key_id, resume, owner)

    def _vouched(
        self, vouchers: Vouchers, headers: Mapping[str, str], resume: str, protocol: str
    ) -> Caller:
        """The caller for whom another server vouches.

        Raises:
            Refused: 403, the voucher does not count here; 401, the key is revoked or unknown.
        """
        key_id = None
        # Servers send no origin: this is a web page, and nobody has checked which.
        if "origin" not in headers:
            key_id = vouchers.redeem(headers[VOUCHER], resume)
        if key_id is None:
            raise Refused(
                403,
                "voucher",
                "another server passed this call on with a signature that does not count here; "
                "give all servers the same token_secret_file, and the same time",
            )
        return self._access.vouched(key_id, protocol)

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
