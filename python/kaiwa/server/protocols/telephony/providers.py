"""A table for each telephony provider (docs/spec/protocols.md 4)."""

from __future__ import annotations

from kaiwa.server.protocols.telephony.provider import Blank, Encoding, Provider

#: Programmable Voice, `<Connect><Stream>`.
TWILIO = Provider(
    name="twilio",
    stream=("start", "streamSid"),
    parameters=("start", "customParameters"),
    encoding=("start", "mediaFormat", "encoding"),
    rate=("start", "mediaFormat", "sampleRate"),
    channels=("start", "mediaFormat", "channels"),
    encodings={"audio/x-mulaw": Encoding.MULAW},
    media={"event": "media", "streamSid": Blank.STREAM, "media": {"payload": Blank.PAYLOAD}},
    mark_sent={"event": "mark", "streamSid": Blank.STREAM, "mark": {"name": Blank.MARK}},
    clear={"event": "clear", "streamSid": Blank.STREAM},
)

#: Media streaming with `stream_bidirectional_mode` `rtp`, and `stream_bidirectional_codec` as the
#: `stream_codec`.
TELNYX = Provider(
    name="telnyx",
    stream=("stream_id",),
    parameters=("start", "custom_parameters"),
    encoding=("start", "media_format", "encoding"),
    rate=("start", "media_format", "sample_rate"),
    channels=("start", "media_format", "channels"),
    encodings={"PCMU": Encoding.MULAW, "PCMA": Encoding.ALAW, "L16": Encoding.LINEAR_BE},
    rates=(8000, 16000),
    media={"event": "media", "media": {"payload": Blank.PAYLOAD}},
    mark_sent={"event": "mark", "mark": {"name": Blank.MARK}},
    clear={"event": "clear"},
    secret_header="x-telnyx-streaming-auth-token",
)

#: `<Stream bidirectional="true">`, with the token in `extraHeaders`.
PLIVO = Provider(
    name="plivo",
    stream=("start", "streamId"),
    parameters=("extra_headers",),
    encoding=("start", "mediaFormat", "encoding"),
    rate=("start", "mediaFormat", "sampleRate"),
    encodings={"audio/x-mulaw": Encoding.MULAW, "audio/x-l16": Encoding.LINEAR_LE},
    rates=(8000, 16000),
    media={
        "event": "playAudio",
        "streamId": Blank.STREAM,
        "media": {
            "contentType": Blank.ENCODING,
            "sampleRate": Blank.RATE,
            "payload": Blank.PAYLOAD,
        },
    },
    mark_sent={"event": "checkpoint", "streamId": Blank.STREAM, "name": Blank.MARK},
    clear={"event": "clearAudio", "streamId": Blank.STREAM},
    mark_event="playedStream",
    mark=("name",),
)

#: AgentStream, Voicebot applet. It wants at least 3200 bytes a message, in multiples of 320.
EXOTEL = Provider(
    name="exotel",
    stream=("stream_sid",),
    parameters=("start", "custom_parameters"),
    encoding=("start", "media_format", "encoding"),
    rate=("start", "media_format", "sample_rate"),
    encodings=dict.fromkeys(("", "audio/x-raw", "raw/slin", "base64"), Encoding.LINEAR_LE),
    rates=(8000, 16000, 24000),
    media={"event": "media", "stream_sid": Blank.STREAM, "media": {"payload": Blank.PAYLOAD}},
    mark_sent={"event": "mark", "stream_sid": Blank.STREAM, "mark": {"name": Blank.MARK}},
    clear={"event": "clear", "stream_sid": Blank.STREAM},
    frames=3,
)
