"""The wire protocols that a server speaks."""

from __future__ import annotations

from kaiwa.server.protocols.asr.protocol import AsrProtocol
from kaiwa.server.protocols.base import WireProtocol
from kaiwa.server.protocols.kyutai.protocol import KyutaiProtocol
from kaiwa.server.protocols.live.protocol import LiveProtocol
from kaiwa.server.protocols.realtime.protocol import RealtimeProtocol
from kaiwa.server.protocols.realtime.webrtc.protocol import WebRtcProtocol
from kaiwa.server.protocols.telephony.protocol import TelephonyProtocol, TwilioProtocol
from kaiwa.server.protocols.telephony.providers import EXOTEL, PLIVO, TELNYX
from kaiwa.server.protocols.transcriptions.protocol import TranscriptionsProtocol

PROTOCOLS: tuple[WireProtocol, ...] = (
    KyutaiProtocol(),
    LiveProtocol(),
    RealtimeProtocol(),
    WebRtcProtocol(),
    TwilioProtocol(),
    *(TelephonyProtocol(provider) for provider in (TELNYX, PLIVO, EXOTEL)),
    AsrProtocol(),
    TranscriptionsProtocol(),
)
"""Kyutai's duplex protocol at `/api/chat` (docs/spec/protocols.md 1), OpenAI's Live at
`/v1/live/sessions` (3.3) and Realtime at `/v1/realtime` (3.4), the latter by WebRTC too, phone
calls at `/telephony/NAME` (4); for models that transcribe, Kyutai's protocol at
`/api/asr-streaming` (2.3) and OpenAI's transcriptions of files at `/v1/audio/transcriptions`."""
