"""Calls that came here and are held by another server: where they are, and passing them on."""

from __future__ import annotations

from kaiwa.server.call.context import CallContext
from kaiwa.server.caller import Caller
from kaiwa.server.channel import Channel
from kaiwa.server.protocols.base import CallRequest
from kaiwa.server.shared.forward import Forward
from kaiwa.server.shared.redis_client import SharedStateUnavailable


async def reach_owner(
    context: CallContext, channel: Channel, caller: Caller, request: CallRequest
) -> Forward | None:
    """A way to the other server that has the call of a resume token; None if none has.

    Raises:
        Refused: The key of the caller has no more room there, or was revoked.
    """
    token, shared = request.resume, context.shared
    if token is None or shared is None or caller.vouched or context.state.draining:
        return None
    if token in context.held:
        return None
    try:
        address = await shared.owner(token)
    except SharedStateUnavailable:
        return None
    if address is None:
        return None
    voucher = context.admission.vouch(caller, token, address)
    upstream = await context.reach(address, channel.path, channel.query, voucher)
    return None if upstream is None else Forward(channel, upstream, context.now)
