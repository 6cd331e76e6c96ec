"""Makes what a server shares with others, from its settings."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from kaiwa.errors import InputError
from kaiwa.server.access import Access
from kaiwa.server.settings import ServerSettings
from kaiwa.server.shared import address
from kaiwa.server.shared.admission import Admission
from kaiwa.server.shared.client_secrets import ClientSecrets
from kaiwa.server.shared.redis_client import RedisClient
from kaiwa.server.shared.signed_tokens import SignedTokens
from kaiwa.server.shared.state import SharedState

if TYPE_CHECKING:
    from kaiwa.server.shared.signing import Signer

_POLICIES = {
    "open": "calls go on; new ones are counted by each server for itself",
    "closed": "calls go on; new ones of callers with keys are refused",
}


def signer(settings: ServerSettings) -> Signer | None:
    """Signs with the common secret; None if there is none.

    Raises:
        InputError: the file cannot be read, or holds no secret.
    """
    if settings.token_secret_file is None:
        return None
    from kaiwa.server.shared import signing

    return signing.read(settings.token_secret_file)


def tokens(
    settings: ServerSettings,
    signer: Signer | None,
    shared: SharedState | None,
    wall: Callable[[], float] = time.time,
) -> SignedTokens | None:
    """Tokens that every server with the secret accepts; None without a secret."""
    if signer is None:
        return None
    return SignedTokens(signer, settings.token_seconds, wall=_common(wall, shared))


def client_secrets(
    signer: Signer | None, shared: SharedState | None, wall: Callable[[], float] = time.time
) -> ClientSecrets:
    """Secrets for browsers, which every server with the common secret accepts."""
    return ClientSecrets(signer, _common(wall, shared))


def _common(wall: Callable[[], float], shared: SharedState | None) -> Callable[[], float]:
    """Seconds since 1970, by the clock that servers with the same shared state have in common."""
    return wall if shared is None else shared.redis.now


def shared_state(
    settings: ServerSettings,
    signer: Signer | None,
    port: int,
    clock: Callable[[], float] = time.monotonic,
    wall: Callable[[], float] = time.time,
) -> SharedState | None:
    """The shared state; None without Redis.

    Args:
        settings: of the server.
        signer: of the common secret, which the settings ask for where there is Redis.
        port: where it listens.
        clock: seconds, never going back.
        wall: seconds since 1970 by the clock of this machine.

    Raises:
        InputError: the file of the password cannot be read.
        KaiwaError: the package redis is missing.
    """
    if settings.redis_url is None or signer is None:
        return None
    policy = _POLICIES[settings.redis_down]
    redis = RedisClient(settings.redis_url, password(settings), policy, wall)
    return SharedState(redis, signer, own_address(settings, port, redis.host_and_port), clock)


def password(settings: ServerSettings) -> str | None:
    """The password of Redis, from its file.

    Raises:
        InputError: the file cannot be read, or is empty.
    """
    if settings.redis_password_file is None:
        return None
    try:
        text = Path(settings.redis_password_file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise InputError(f"the file of redis_password_file cannot be read: {reason}") from None
    if not text:
        raise InputError("the file of redis_password_file is empty; put the password in it")
    return text


def own_address(
    settings: ServerSettings, port: int, redis: tuple[str, int | None] | None
) -> Callable[[], Awaitable[str | None]]:
    """What finds the address by which other servers reach this one."""

    async def find() -> str | None:
        if settings.advertise_url is not None:
            return settings.advertise_url
        return await address.find(settings.host, port, settings.secure, redis) or None

    return find


def admission(
    settings: ServerSettings,
    access: Access,
    signer: Signer | None,
    shared: SharedState | None,
    model: Callable[[], str | None],
    on_unanswered: Callable[[str], object],
    wall: Callable[[], float] = time.time,
) -> Admission:
    """Who is let in, over all servers."""
    return Admission(
        access,
        model=model,
        signer=signer,
        shared=shared,
        closed=settings.redis_down == "closed",
        wall=_common(wall, shared),
        on_unanswered=on_unanswered,
    )
