"""The older dialect, "beta": the same events by other names (docs/spec/protocols.md 3.10)."""

from __future__ import annotations

from typing import Any

from kaiwa.server.protocols.realtime.settings import beta_format

_TYPES = {
    "response.output_audio.delta": "response.audio.delta",
    "response.output_audio.done": "response.audio.done",
    "response.output_audio_transcript.delta": "response.audio_transcript.delta",
    "response.output_audio_transcript.done": "response.audio_transcript.done",
    "conversation.item.added": "conversation.item.created",
}
_PARTS = {"output_audio": "audio", "output_text": "text"}


def to_beta(event: dict[str, Any]) -> dict[str, Any] | None:
    """An event as the older dialect has it; None if it has none such."""
    if event["type"] == "conversation.item.done":
        return None
    made = {**event, "type": _TYPES.get(event["type"], event["type"])}
    if "item" in made:
        made["item"] = _item(made["item"])
    if "session" in made:
        made["session"] = _session(made["session"])
    if "response" in made:
        made["response"] = _response(made["response"])
    return made


def _item(item: dict[str, Any]) -> dict[str, Any]:
    if "content" not in item:
        return item
    parts = [{**part, "type": _PARTS.get(part["type"], part["type"])} for part in item["content"]]
    return {**item, "content": parts}


def _session(session: dict[str, Any]) -> dict[str, Any]:
    into, out = session["audio"]["input"], session["audio"]["output"]
    kept = ("object", "id", "model", "expires_at", "instructions", "tools", "tool_choice")
    return {
        **{name: session[name] for name in kept},
        "modalities": ["audio", "text"],
        "voice": out["voice"],
        "speed": out["speed"],
        "input_audio_format": beta_format(into["format"]),
        "output_audio_format": beta_format(out["format"]),
        "turn_detection": into["turn_detection"],
        "input_audio_transcription": None,
        "input_audio_noise_reduction": None,
        "temperature": 0.8,
        "max_response_output_tokens": "inf",
        "tracing": None,
    }


def _response(response: dict[str, Any]) -> dict[str, Any]:
    made = {**response, "output": [_item(item) for item in response["output"]]}
    out = made.pop("audio")["output"]
    del made["output_modalities"]
    return {
        **made,
        "modalities": ["audio", "text"],
        "voice": out["voice"],
        "output_audio_format": beta_format(out["format"]),
        "temperature": 0.8,
    }
