"""The wire protocols that the client speaks."""

from __future__ import annotations

from kaiwa.client.kyutai import KyutaiWire
from kaiwa.client.openai_live import LiveWire
from kaiwa.client.openai_realtime import RealtimeWire
from kaiwa.client.phone import TwilioWire
from kaiwa.client.transport import Format
from kaiwa.client.wire import Wire
from kaiwa.errors import InputError

#: Names of all, the default first.
WIRES = (KyutaiWire.name, LiveWire.name, RealtimeWire.name, TwilioWire.name)


def wire(name: str, audio_format: Format | None = None) -> Wire:
    """A new wire.

    Args:
        name: one of `WIRES`.
        audio_format: how audio travels, for `kyutai`; None is Opus.

    Raises:
        InputError: there is no such protocol, or its audio has no choice of form.
    """
    if name == KyutaiWire.name:
        return KyutaiWire(audio_format or "opus")
    if audio_format is not None:
        raise InputError(f"format is for the protocol kyutai; with {name} leave it out")
    for known in (LiveWire, RealtimeWire, TwilioWire):
        if name == known.name:
            return known()
    raise InputError(f"protocol is {name!r}; choose one of {', '.join(WIRES)}")
