"""Calling a server: an asyncio client of `/api/chat`.

::

    async with connect("127.0.0.1:8998", key=key) as chat:
        await chat.send_pcm(frame)
        async for event in chat:
            ...
"""

from kaiwa.client.connection import ChatClient, connect
from kaiwa.client.messages import (
    FRAME,
    FRAME_SECONDS,
    SAMPLE_RATE,
    Audio,
    Error,
    Event,
    Handshake,
    Metadata,
    Ping,
    State,
    Text,
)
from kaiwa.client.params import ChatParams
from kaiwa.errors import ServerError

__all__ = [
    "FRAME",
    "FRAME_SECONDS",
    "SAMPLE_RATE",
    "Audio",
    "ChatClient",
    "ChatParams",
    "Error",
    "Event",
    "Handshake",
    "Metadata",
    "Ping",
    "ServerError",
    "State",
    "Text",
    "connect",
]
