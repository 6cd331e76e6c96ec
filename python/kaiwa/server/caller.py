"""Who sent a request, and what that one may do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kaiwa.server.tokens import Redeemed


@dataclass(frozen=True)
class Caller:
    """Who sent a request.

    Attributes:
        name: name of the key, for logs and metrics; empty if keys are not asked for.
        key_id: id of the key; empty if keys are not asked for.
        max_seconds: longest conversation, by key and server; None is no limit.
        operator: may see and end everybody's conversations.
        protocol: what the caller wants to talk by; None if no call is asked for.
        by_token: came with a token, which is good for one connection and nothing else.
        token: the token, if it came here and not to another server.
        model: the only one that the caller may talk to; None if the key alone decides.
        session: with what the sessions of the caller's secret begin; empty without one.
        vouched: let in by another server, which passes on the caller's connection because the call
            is held here.
    """

    name: str
    key_id: str
    max_seconds: float | None
    operator: bool = False
    protocol: str | None = None
    by_token: bool = False
    token: Redeemed | None = None
    model: str | None = None
    session: Mapping[str, Any] = field(default_factory=dict, hash=False)
    vouched: bool = False
