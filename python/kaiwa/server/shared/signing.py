"""Short texts that only holders of a secret can make."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from pathlib import Path

from kaiwa.errors import InputError

#: Shortest secret, in bytes.
LEAST = 32
#: A secret is not a file of another kind that was named by mistake.
_MOST_BYTES = 1 << 16
_MAC_BYTES = 32


class Signer:
    """Signs with one secret, and knows what others signed."""

    def __init__(self, secrets: tuple[bytes, ...]) -> None:
        """A signer.

        Args:
            secrets: the first signs; what any of them signed is taken, so that a secret can be
                exchanged while servers run.
        """
        self._secrets = secrets

    def sign(self, purpose: str, payload: bytes) -> str:
        """Payload and signature as text of letters, digits, `-`, `_` and one `.`.

        Args:
            purpose: what it is for; signed for one purpose, it is worth nothing for another.
            payload: is not hidden, only signed.
        """
        mac = _mac(self._secrets[0], purpose, payload)
        return f"{_encode(payload)}.{_encode(mac)}"

    def check(self, purpose: str, text: str) -> bytes | None:
        """The payload of a text that was signed for a purpose; None if it was not."""
        first, _, second = text.partition(".")
        payload, mac = _decode(first), _decode(second)
        if payload is None or mac is None or len(mac) != _MAC_BYTES:
            return None
        good = [hmac.compare_digest(mac, _mac(s, purpose, payload)) for s in self._secrets]
        return payload if any(good) else None


def read(path: str) -> Signer:
    """The signer of a file with a secret a line: the first signs, all are known.

    Raises:
        InputError: it cannot be read, holds none, or one is too short. Says nothing of them.
    """
    how = f"make one with `openssl rand -base64 48 > {path}`, the same for every server"
    try:
        with Path(path).open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"the file of token_secret_file cannot be read: {reason}; {how}") from None
    lines = [line.strip() for line in data.splitlines() if line.strip()]
    if not lines or len(data) > _MOST_BYTES:
        raise InputError(f"the file of token_secret_file holds no secret; {how}")
    if min(map(len, lines)) < LEAST:
        raise InputError(
            f"a secret in the file of token_secret_file is shorter than {LEAST} bytes; {how}"
        )
    return Signer(tuple(lines))


def _mac(secret: bytes, purpose: str, payload: bytes) -> bytes:
    """The signature: HMAC-SHA256 over purpose and payload."""
    return hmac.new(secret, b"kaiwa " + purpose.encode() + b"\0" + payload, hashlib.sha256).digest()


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _decode(text: str) -> bytes | None:
    """The bytes of a text in the one form that `_encode` gives them."""
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        return None
    return data if _encode(data) == text else None
