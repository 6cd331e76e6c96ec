"""The signature that Twilio puts on its requests (header `X-Twilio-Signature`).

HMAC-SHA1, with the account's auth token as the key, of the address that Twilio was given and,
for a form, its fields: https://www.twilio.com/docs/usage/security#validating-requests.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

from kaiwa.errors import InputError
from kaiwa.server.refusal import Refused

HEADER = "x-twilio-signature"
_MOST_BYTES = 1 << 12


class SignatureCheck:
    """Checks signatures with any of several auth tokens, so that one can be replaced."""

    def __init__(self, tokens: Sequence[str]) -> None:
        """A check with the auth tokens of an account."""
        self._tokens = [token.encode() for token in tokens]

    @classmethod
    def read(cls, path: str) -> SignatureCheck:
        """The check with the auth tokens of a file, one a line.

        Raises:
            InputError: the file cannot be read, or holds none. The message has nothing of them.
        """
        how = "put the account's auth token into it, one a line; the Twilio console shows it"
        try:
            with Path(path).open("rb") as file:
                data = file.read(_MOST_BYTES + 1)
            lines = data.decode("ascii").split()
        except OSError as error:
            reason = error.strerror or error
            raise InputError(
                f"the file of twilio_auth_token_file cannot be read: {reason}; {how}"
            ) from None
        except UnicodeDecodeError:
            lines = []
        if not lines or len(data) > _MOST_BYTES:
            raise InputError(f"the file of twilio_auth_token_file holds no auth token; {how}")
        return cls(lines)

    def require(
        self,
        signature: str | None,
        addresses: Iterable[str],
        fields: Iterable[tuple[str, str]] = (),
    ) -> None:
        """Refuses a request that is not from the account.

        Args:
            signature: the header; None if there is none.
            addresses: under which Twilio may know what it asked for.
            fields: of the form, decoded.

        Raises:
            Refused: 403.
        """
        tail = "".join(name + value for name, value in sorted(set(fields)))
        given = (signature or "").encode("utf-8", "replace")
        for address, token in itertools.product(addresses, self._tokens):
            digest = hmac.new(token, (address + tail).encode(), hashlib.sha1).digest()
            if hmac.compare_digest(base64.b64encode(digest), given):
                return
        raise Refused(
            403,
            "signature",
            "this request is not signed by the Twilio account of this server; if it is yours, "
            "compare the auth token, and let proxies keep the Host header",
        )


def addresses(
    host: str, path: str, query: str, schemes: Iterable[str], credentials: str = ""
) -> list[str]:
    """The addresses under which Twilio may know a request: what is between it and the server may
    have ended TLS, and a port that goes without saying may or may not have been said. Trying
    several is no weaker, as each of them must be signed.

    Args:
        host: the `Host` header.
        path: of the request.
        query: of the request, undecoded.
        schemes: that are possible.
        credentials: `name:password` of the request, if it had any.
    """
    found = []
    tail = f"?{query}" if query else ""
    bare, _, port = host.rpartition(":")
    for scheme in schemes:
        usual = {"http": "80", "ws": "80"}.get(scheme, "443")
        hosts = {host, f"{host}:{usual}"}
        if bare and port in ("80", "443"):
            hosts.add(bare)
        for place in sorted(hosts):
            for user in {"", f"{credentials}@" if credentials else ""}:
                for end in (path, f"{path}/"):
                    found.append(f"{scheme}://{user}{place}{end}{tail}")
    return found
