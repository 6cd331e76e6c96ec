"""Secrets for browsers: signed, good for any number of calls within a short time."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kaiwa.server.redaction import SECRET_PREFIX
from kaiwa.server.tokens import Secret

if TYPE_CHECKING:
    from kaiwa.server.shared.signing import Signer

_PURPOSE = "client secret"


class ClientSecrets:
    """A `SecretStore` that stores nothing: a secret says for whom it is, and is signed. Servers
    with the same `token_secret_file` accept those of one another."""

    def __init__(self, signer: Signer | None, wall: Callable[[], float] = time.time) -> None:
        """Makes and checks.

        Args:
            signer: with the common secret; None makes one of this process alone.
            wall: seconds since 1970.
        """
        if signer is None:
            from kaiwa.server.shared import signing

            signer = signing.Signer((secrets.token_bytes(32),))
        self._signer = signer
        self._wall = wall

    def issue(self, secret: Secret, seconds: float) -> tuple[str, int]:
        """See `SecretStore`."""
        end = int(self._wall() + seconds)
        value: dict[str, Any] = {"id": secrets.token_urlsafe(9), "key": secret.key_id, "end": end}
        value |= {"model": secret.model, "origin": secret.origin}
        if secret.session:
            value["session"] = dict(secret.session)
        return SECRET_PREFIX + self._signer.sign(_PURPOSE, value), end

    def check(self, text: str) -> Secret | None:
        """See `SecretStore`."""
        if not text.startswith(SECRET_PREFIX):
            return None
        value = self._signer.check(_PURPOSE, text.removeprefix(SECRET_PREFIX))
        if not isinstance(value, dict) or value["end"] < self._wall():
            return None
        return Secret(value["key"], value["model"], value["origin"], value.get("session", {}))
