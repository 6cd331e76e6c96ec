"""Keys and tokens where telephony providers can put them."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping

from kaiwa.server.redaction import KEY_PREFIX


def basic(headers: Mapping[str, str]) -> str | None:
    """`name:password` of a request to an address `https://name:password@host/`, else None."""
    scheme, _, text = headers.get("authorization", "").strip().partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(text.strip(), validate=True).decode()
    except (binascii.Error, ValueError):
        return ""


def from_headers(headers: Mapping[str, str], secret_header: str | None) -> str | None:
    """The key or token in the headers of a request: the password, or the name if there is no
    password; a bearer's; or in a header of the provider's own. None if there is none."""
    pair = basic(headers)
    if pair is not None:
        name, _, password = pair.partition(":")
        return password or name
    scheme, _, text = headers.get("authorization", "").strip().partition(" ")
    if scheme.lower() == "bearer":
        return text.strip()
    return headers.get(secret_header) if secret_header else None


def from_parameters(parameters: object) -> str | None:
    """The key or token among what the customer wants to be told: `token`, of a mapping or of text
    that is JSON or `a=b;c=d`. None if there is none."""
    if isinstance(parameters, str):
        parameters = _mapping(parameters)
    token = parameters.get("token") if isinstance(parameters, Mapping) else None
    return token if isinstance(token, str) and token else None


def _mapping(text: str) -> object:
    if text.lstrip().startswith("{"):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return None
    pairs = (part.partition("=") for part in text.replace(",", ";").split(";"))
    return {name.strip(): value.strip() for name, _, value in pairs}


def shown(secret: str | None, headers: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Headers and query of a request that shows a key or token in the usual way; without one they
    show nothing."""
    rest = {name: value for name, value in headers.items() if name != "authorization"}
    if secret is None:
        return rest, {}
    if secret.startswith(KEY_PREFIX):
        return {**rest, "authorization": f"Bearer {secret}"}, {}
    return rest, {"token": secret}
