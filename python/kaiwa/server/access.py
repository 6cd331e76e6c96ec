"""Who may do what: the page a request comes from, its key or token, and the limits of the key.

Nothing here knows of sockets or reads a clock: headers and queries are mappings, and `now` is in
seconds on a clock that never goes back, the same one in every call.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NoReturn

from kaiwa.server import page_check
from kaiwa.server.caller import Caller
from kaiwa.server.key_entry import Key
from kaiwa.server.key_uses import KeyUses, file_of
from kaiwa.server.keys import KeyFile
from kaiwa.server.limits import Lease, LimitReached, Limits
from kaiwa.server.redaction import KEY_PREFIX, SECRET_PREFIX
from kaiwa.server.refusal import Refused
from kaiwa.server.settings import ServerSettings
from kaiwa.server.tokens import LocalTokens, Secret, SecretStore, TokensFull, TokenStore

HOW = "send a key as `Authorization: Bearer ...`, or a token of POST /v1/tokens as ?token=..."


class Access:
    """Lets callers in or refuses them. Not for several threads at once."""

    def __init__(
        self,
        settings: ServerSettings,
        clock: Callable[[], float] = time.time,
        *,
        tokens: TokenStore | None = None,
        keys: KeyFile | None = None,
        secrets: SecretStore | None = None,
    ) -> None:
        """Reads the file of keys, if one is named.

        Args:
            settings: of the server, checked by `startup.check_startup`.
            clock: seconds since 1970, for the expiry that callers are told.
            tokens: where tokens are kept; None is in this process.
            keys: the keys; None are those of the file that the settings name, if they name one.
            secrets: makes and checks secrets for browsers; None knows none.

        Raises:
            InputError: the file of keys is missing or damaged.
        """
        self._settings = settings
        self._clock = clock
        self._tokens = LocalTokens(settings.token_seconds) if tokens is None else tokens
        if keys is None and settings.keys is not None:
            keys = KeyFile(settings.keys)
        self._keys = keys
        self._secrets = secrets
        self.uses = KeyUses(file_of(settings.keys)) if settings.keys is not None else None
        self._reading = asyncio.Lock()
        self._limits = Limits()
        self._more_hosts: set[str] = set()

    @property
    def is_open(self) -> bool:
        """Whether callers need no key."""
        return self._keys is None

    async def follow_keys(self) -> None:
        """Reads the file of keys again if it changed, on a thread: it may be large. Once this was
        called, keys change here and nowhere else, so that whoever runs the server has to call it
        now and then."""
        keys = self._keys
        if keys is None:
            return
        keys.follows = False
        if keys.changed and not self._reading.locked():
            async with self._reading:
                await asyncio.to_thread(keys.refresh)

    def reload_keys(self) -> None:
        """Reads the file of keys again, whether it seems to have changed or not."""
        if self._keys is not None:
            self._keys.reload()

    def authorize(
        self,
        headers: Mapping[str, str],
        query: Mapping[str, str],
        now: float,
        *,
        protocol: str | None = None,
    ) -> Caller:
        """Who sent a request; uses up the token that it came with, if any.

        Args:
            headers: by lower-case names.
            query: parameters, decoded.
            now: seconds.
            protocol: of the call that is asked for; None if none is. Keys may be limited to some.

        Raises:
            Refused: 401 or 403.
        """
        self.check_page(headers)
        if self._keys is None:
            caller = Caller("", "", self._settings.call_seconds, operator=True, protocol=protocol)
            return replace(caller, session=self._preset(headers))
        _refuse_keys_in_query(query)
        header = headers.get("authorization")
        if header is not None:
            caller, key = self._by_header(self._keys, header, headers.get("origin"))
        elif "token" in query:
            caller, key = self._by_token(self._keys, query["token"], now)
        else:
            _unauthorized("no_key", f"this server wants a key; {HOW}")
        if protocol is not None:
            _check_allowed("protocol", protocol, key.protocols, key)
        if self.uses is not None:
            self.uses.note(key.id, self._clock())
        return replace(caller, protocol=protocol)

    def check_page(self, headers: Mapping[str, str]) -> None:
        """Refuses requests that web pages of other origins send; for every route.

        Raises:
            Refused: 403.
        """
        page_check.check(headers, self._settings, is_open=self.is_open, more_hosts=self._more_hosts)

    def check_host(self, headers: Mapping[str, str]) -> None:
        """Refuses requests by a name that is not the server's; for routes without callers.

        Raises:
            Refused: 403.
        """
        page_check.check_host(
            headers.get("host"),
            self._settings,
            is_open=self.is_open,
            more_hosts=self._more_hosts,
        )

    def allow_host(self, name: str) -> None:
        """Lets the server be called by one name more, which was not known at the start."""
        self._more_hosts.add(name)

    def enter(
        self,
        caller: Caller,
        now: float,
        *,
        model: str | None = None,
        held: Lease | None = None,
    ) -> Lease:
        """Counts a conversation of a caller; release the lease when it is over.

        Args:
            caller: from `authorize`.
            now: seconds.
            model: name of the model that the conversation is with; None if it is not known yet.
            held: lease of the conversation that is taken up again, which is given back.

        Raises:
            Refused: 403, the key is not for this protocol or model; 429, a limit of the key is
                reached; 401, the key was revoked meanwhile; 503, the key is limited to some models
                and this server's is not known yet.
        """
        self._check_use(caller, model)
        concurrency, per_minute = self.limits_of(caller)
        try:
            return self._limits.enter(
                caller.key_id, now, concurrency=concurrency, per_minute=per_minute, held=held
            )
        except LimitReached as reached:
            raise self.limit_refusal(caller, reached) from None

    def _check_use(self, caller: Caller, model: str | None) -> None:
        """Refuses a conversation that the caller's key, as it is now, is not for."""
        key = self._live_key(caller)
        if key is None:
            return
        if model is not None and caller.model not in (None, model):
            raise Refused(
                403, "not_for_this_key", "this secret is for another model; get a new one"
            )
        if key.allows(caller.protocol, model):
            return
        _check_allowed("protocol", caller.protocol, key.protocols, key)
        if model is None:
            raise Refused(503, "starting", "the model is still loading; try again shortly", 5)
        _check_allowed("model", model, key.models, key)

    def undo(self, lease: Lease, now: float, *, keep: bool) -> None:
        """Reverses `enter`.

        Args:
            lease: what it returned.
            now: what it was given.
            keep: the lease was held before, so that the conversation goes on counting.
        """
        self._limits.uncount(lease.key_id, now)
        if not keep:
            lease.release()

    def limits_of(self, caller: Caller) -> tuple[int | None, int | None]:
        """Conversations at once and connections a minute of the caller's key; None is any number.

        Raises:
            Refused: 401, the key was revoked meanwhile.
        """
        key = self._live_key(caller)
        return (key.concurrency, key.per_minute) if key else (None, None)

    def limit_refusal(self, caller: Caller, reached: LimitReached) -> Refused:
        """The refusal of a caller whose key has no more room."""
        many = "s" if reached.limit != 1 else ""
        what = {
            "concurrency": f"conversation{many} at once; end one first",
            "rate": f"connection{many} a minute; wait",
        }[reached.code]
        return Refused(
            429,
            f"key_{reached.code}",
            f"the key {caller.name} allows {reached.limit} {what}",
            reached.retry_after,
        )

    def vouched(self, key_id: str, protocol: str | None = None) -> Caller:
        """The holder of the key with an id, for whom another server vouches.

        Raises:
            Refused: 401, the key is revoked or unknown here.
        """
        if self._keys is None:
            return Caller("", "", self._settings.call_seconds, protocol=protocol, vouched=True)
        key = self._keys.get(key_id)
        if key is None:
            _unauthorized("unknown_key", "this key is not known any more; ask the operator for one")
        caller = self._caller(self._counting(key), by_token=True)
        return replace(caller, protocol=protocol, vouched=True)

    def bad_token(self) -> Refused:
        """The refusal of a caller whose token does not count."""
        return Refused(
            401,
            "bad_token",
            "this token is unknown, used or too old; get a new one with POST /v1/tokens",
        )

    def issue_token(self, caller: Caller, now: float) -> tuple[str, int]:
        """A token for one connection, and when it expires in whole seconds since 1970.

        Raises:
            Refused: 403, the caller came with a token itself; 401, the key was revoked meanwhile;
                429, too many tokens are unused.
        """
        self._refuse_token(caller)
        self._live_key(caller)
        try:
            issued = self._tokens.issue(caller.key_id, now)
        except TokensFull:
            raise self._too_many_tokens() from None
        return issued.text, int(self._clock() + issued.seconds)

    def issue_secret(
        self,
        caller: Caller,
        seconds: float,
        *,
        model: str | None,
        origin: str | None,
        session: Mapping[str, Any],
    ) -> tuple[str, int]:
        """A secret for browsers, and when it expires in whole seconds since 1970.

        Args:
            caller: by key.
            seconds: how long it is to count.
            model: the only one that it is for.
            origin: of the web page that asks; pages of others cannot use it.
            session: see `Secret`.

        Raises:
            Refused: 403, the caller came with a token or a secret; 401, the key was revoked
                meanwhile; 503, this server makes none.
        """
        self._refuse_token(caller)
        self._live_key(caller)
        if self._secrets is None:
            raise Refused(503, "starting", "this server makes no secrets; use a token")
        return self._secrets.issue(Secret(caller.key_id, model, origin, session), seconds)

    def _refuse_token(self, caller: Caller) -> None:
        """Refuses a caller who came without a key.

        Raises:
            Refused: 403.
        """
        if caller.by_token:
            raise Refused(
                403,
                "token_for_token",
                "a token is not enough to get another; send the key as `Authorization: Bearer ...`",
            )

    def _too_many_tokens(self) -> Refused:
        return Refused(
            429,
            "tokens",
            "too many tokens are in use at present; try again in a moment",
            max(1, int(self._settings.token_seconds)),
        )

    def require_operator(self, caller: Caller) -> None:
        """Refuses a caller who is no operator.

        Raises:
            Refused: 403.
        """
        if not caller.operator:
            raise Refused(
                403,
                "operator",
                "this is for operators; use a key made with `kaiwa key add NAME --operator`",
            )

    def revoked(self, caller: Caller) -> bool:
        """Whether the key of a caller who was let in has been revoked or removed since, or has
        expired."""
        if self._keys is None:
            return False
        key = self._keys.get(caller.key_id)
        return key is None or not key.counts(self._clock())

    def _by_header(self, keys: KeyFile, header: str, origin: str | None) -> tuple[Caller, Key]:
        """The holder of the key, or of the secret for a page, in an `Authorization` header."""
        match = re.fullmatch(r"\s*bearer\s+(\S+)\s*", header, re.IGNORECASE)
        if match is None:
            _unauthorized("bad_authorization", f"the Authorization header holds no key; {HOW}")
        if match[1].startswith(SECRET_PREFIX):
            return self._by_secret(keys, match[1], origin)
        key = keys.verify(match[1])
        if key is None:
            _unauthorized("unknown_key", "this key is not known; ask the operator for one")
        return self._caller(self._counting(key), by_token=False), key

    def _preset(self, headers: Mapping[str, str]) -> Mapping[str, Any]:
        """With what sessions begin, of a secret that nobody has to show here; empty without one."""
        text = headers.get("authorization", "").strip().rpartition(" ")[2]
        secret = self._secrets.check(text) if self._secrets is not None else None
        if secret is None or secret.origin not in (None, headers.get("origin")):
            return {}
        return secret.session

    def _by_secret(self, keys: KeyFile, text: str, origin: str | None) -> tuple[Caller, Key]:
        """The holder of the key that a secret was issued for."""
        secret = self._secrets.check(text) if self._secrets is not None else None
        key = keys.get(secret.key_id) if secret is not None else None
        if secret is None or key is None or secret.origin not in (None, origin):
            _unauthorized(
                "bad_token",
                "this secret is unknown, too old, or of another page; get a new one with "
                "POST /v1/realtime/client_secrets",
            )
        caller = self._caller(self._counting(key), by_token=True)
        return replace(caller, model=secret.model, session=secret.session), key

    def _by_token(self, keys: KeyFile, token: str, now: float) -> tuple[Caller, Key]:
        """The holder of the key that a token was issued for."""
        try:
            redeemed = self._tokens.redeem(token, now)
        except TokensFull:
            raise self._too_many_tokens() from None
        key = keys.get(redeemed.key_id) if redeemed is not None else None
        if key is None:
            raise self.bad_token()
        return replace(self._caller(self._counting(key), by_token=True), token=redeemed), key

    def _caller(self, key: Key, *, by_token: bool) -> Caller:
        """The holder of a key."""
        limits = [s for s in (key.max_seconds, self._settings.call_seconds) if s is not None]
        return Caller(
            name=key.name,
            key_id=key.id,
            max_seconds=min(limits, default=None),
            operator=key.operator and not by_token,
            by_token=by_token,
        )

    def _live_key(self, caller: Caller) -> Key | None:
        """The caller's key as it is now; None if keys are not asked for."""
        if self._keys is None:
            return None
        key = self._keys.get(caller.key_id)
        if key is None:
            _unauthorized("unknown_key", "this key is not known any more; ask the operator for one")
        return self._counting(key)

    def _counting(self, key: Key) -> Key:
        """The key itself.

        Raises:
            Refused: 401, it was revoked or has expired.
        """
        if key.revoked is not None:
            _unauthorized(
                "revoked", f"the key {key.name} was revoked; ask the operator for another"
            )
        if not key.counts(self._clock()):
            _unauthorized(
                "key_expired",
                f"the key {key.name} expired at {key.expires}; ask the operator for another",
            )
        return key


def _check_allowed(what: str, used: str | None, allowed: tuple[str, ...] | None, key: Key) -> None:
    """Refuses what a key is not for.

    Raises:
        Refused: 403.
    """
    if allowed is not None and used not in allowed:
        raise Refused(
            403,
            "not_for_this_key",
            f"the key {key.name} is not for this {what}; ask the operator for one that is",
        )


def _refuse_keys_in_query(query: Mapping[str, str]) -> None:
    """Refuses a key in an address, because addresses end up in logs and histories."""
    if any(value.startswith(KEY_PREFIX) for value in query.values()):
        _unauthorized(
            "key_in_query",
            "a key in an address ends up in logs, so it is not taken; " + HOW,
        )


def _unauthorized(code: str, message: str) -> NoReturn:
    """Refuses a caller without a key or token that counts."""
    raise Refused(401, code, message)
