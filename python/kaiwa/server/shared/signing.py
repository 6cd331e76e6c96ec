"""Signed values: anybody can read them, only holders of a secret can make them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from itsdangerous import BadData, URLSafeSerializer
from itsdangerous.encoding import base64_decode, base64_encode

from kaiwa.errors import InputError

#: Shortest secret, in bytes.
SHORTEST_SECRET = 32
#: Longer files are of another kind and were named by mistake.
_MOST_BYTES = 1 << 16


class Signer:
    """Signs JSON values with one secret, and checks what was signed with any of several."""

    def __init__(self, secrets: tuple[bytes, ...]) -> None:
        """A signer.

        Args:
            secrets: the first one signs, all of them check, so that a secret can be replaced while
                servers run.
        """
        # itsdangerous signs with the last one.
        self._secrets = list(reversed(secrets))

    def sign(self, purpose: str, value: Any) -> str:
        """A value and its signature as text that an address can hold.

        Args:
            purpose: what the value is for. Signed for one purpose, it does not count for another.
            value: of JSON.
        """
        return str(self._serializer(purpose).dumps(value))

    def check(self, purpose: str, text: str) -> Any | None:
        """The value of a signed text; None if it was not signed for the purpose."""
        if not text.isascii():
            return None
        try:
            value = self._serializer(purpose).loads(text)
            # Base64 can be spelt in several ways. Only the one that `sign` writes counts, so that
            # one value does not have several texts.
            signature = text.rpartition(".")[2].encode()
            return value if base64_encode(base64_decode(signature)) == signature else None
        except BadData:
            return None

    def _serializer(self, purpose: str) -> URLSafeSerializer:
        return URLSafeSerializer(
            self._secrets,
            salt=f"kaiwa {purpose}",
            signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
        )


def read(path: str) -> Signer:
    """The signer of a file that holds one secret a line, or of a folder of such files.

    In a folder the order of the names counts, and hidden files do not.

    Raises:
        InputError: a file cannot be read or holds no secret, or a secret is too short. The message
            contains nothing of them.
    """
    how = f"make one with `openssl rand -base64 48 > {path}`, the same for every server"
    place = Path(path)
    try:
        if place.is_dir():
            how = f"put files into {path} that `openssl rand -base64 48` makes"
            files = sorted(file for file in place.iterdir() if not file.name.startswith("."))
        else:
            files = [place]
        lines = [line for file in files for line in _lines(file, how)]
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"the file of token_secret_file cannot be read: {reason}; {how}") from None
    if not lines:
        raise InputError(f"the file of token_secret_file holds no secret; {how}")
    if min(map(len, lines)) < SHORTEST_SECRET:
        raise InputError(
            f"a secret in the file of token_secret_file is shorter than {SHORTEST_SECRET} bytes; "
            f"{how}"
        )
    return Signer(tuple(lines))


def _lines(file: Path, how: str) -> list[bytes]:
    """The secrets of one file.

    Raises:
        InputError: it is too long to be one of secrets.
        OSError: it cannot be read.
    """
    with file.open("rb") as opened:
        data = opened.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise InputError(f"the file of token_secret_file holds no secret; {how}")
    return [line.strip() for line in data.splitlines() if line.strip()]
