"""Responses: the model's turns in the words of the protocol, in the order that clients rely on
(docs/spec/protocols.md 3.5-3.7)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kaiwa.server.protocols.openai import Ids

Event = dict[str, Any]


@dataclass
class Response:
    """A response that has not ended.

    Attributes:
        id: its name.
        metadata: that its client gave it, if it asked for it.
        created_at: number of the frame at which it was asked for.
        item_id: the item that it becomes once the model speaks; None before.
        transcript: what was said so far.
        frames: that the model stepped for it.
        tokens: of text.
    """

    id: str
    conversation_id: str
    output: dict[str, Any]
    metadata: dict[str, str] | None = None
    created_at: int = 0
    item_id: str | None = None
    transcript: list[str] = field(default_factory=list)
    frames: int = 0
    tokens: int = 0

    @classmethod
    def new(
        cls, ids: Ids, conversation_id: str, output: dict[str, Any], **members: Any
    ) -> Response:
        """One with a new name."""
        return cls(ids("resp"), conversation_id, output, **members)

    def created(self) -> Event:
        """It begins."""
        return {"type": "response.created", "response": self._told("in_progress", None, [], None)}

    def speaks(self, item_id: str) -> list[Event]:
        """The model begins to speak: the response has an item now, whose place in the conversation
        the caller of this adds to the second event."""
        self.item_id = item_id
        item = self.item("in_progress")
        part = {"type": "audio", "transcript": ""}
        return [
            {
                "type": "response.output_item.added",
                "response_id": self.id,
                "output_index": 0,
                "item": item,
            },
            {"type": "conversation.item.added", "item": item},
            {"type": "response.content_part.added", **self.place(), "part": part},
        ]

    def text(self, piece: str) -> Event:
        """A piece of what is said."""
        self.transcript.append(piece)
        self.tokens += 1
        kind = "response.output_audio_transcript.delta"
        return {"type": kind, **self.place(), "delta": piece}

    def place(self) -> Event:
        """Where what an event tells belongs."""
        return {
            "response_id": self.id,
            "item_id": self.item_id,
            "output_index": 0,
            "content_index": 0,
        }

    def item(self, status: str) -> Event:
        """The item."""
        said = {"type": "output_audio", "transcript": "".join(self.transcript)}
        return {
            "id": self.item_id,
            "object": "realtime.item",
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": [] if status == "in_progress" else [said],
        }

    def done(self, reason: str | None = None) -> list[Event]:
        """It ends: completed, or cancelled for a reason."""
        status = "completed" if reason is None else "cancelled"
        details = {"type": status} if reason is None else {"type": status, "reason": reason}
        if self.item_id is None:
            told = self._told(status, details, [], self._usage())
            return [{"type": "response.done", "response": told}]
        place, transcript = self.place(), "".join(self.transcript)
        item = self.item("completed" if reason is None else "incomplete")
        part = {"type": "audio", "transcript": transcript}
        told = self._told(status, details, [item], self._usage())
        return [
            {"type": "response.output_audio.done", **place},
            {
                "type": "response.output_audio_transcript.done",
                **place,
                "transcript": transcript,
            },
            {"type": "response.content_part.done", **place, "part": part},
            {
                "type": "response.output_item.done",
                "response_id": self.id,
                "output_index": 0,
                "item": item,
            },
            {"type": "conversation.item.done", "item": item},
            {"type": "response.done", "response": told},
        ]

    def _told(
        self,
        status: str,
        details: dict[str, Any] | None,
        output: list[Event],
        usage: dict[str, Any] | None,
    ) -> Event:
        return {
            "object": "realtime.response",
            "id": self.id,
            "status": status,
            "status_details": details,
            "output": output,
            "conversation_id": self.conversation_id,
            "output_modalities": ["audio"],
            "max_output_tokens": "inf",
            "audio": {"output": self.output},
            "usage": usage,
            "metadata": self.metadata,
        }

    def _usage(self) -> dict[str, Any]:
        """An audio token is a frame of 80 ms."""
        none = {"text_tokens": 0, "audio_tokens": 0, "image_tokens": 0}
        return {
            "total_tokens": 2 * self.frames + self.tokens,
            "input_tokens": self.frames,
            "output_tokens": self.frames + self.tokens,
            "input_token_details": {
                **none,
                "audio_tokens": self.frames,
                "cached_tokens": 0,
                "cached_tokens_details": none,
            },
            "output_token_details": {"text_tokens": self.tokens, "audio_tokens": self.frames},
        }


def metadata(asked: Any) -> dict[str, str] | None:
    """What a client wants to find again in a response; None if that is nothing or too much."""
    given = asked.get("metadata") if isinstance(asked, dict) else None
    if not isinstance(given, dict) or len(given) > 16:
        return None
    pairs = {name: value for name, value in given.items() if isinstance(value, str)}
    fits = all(len(name) <= 64 and len(value) <= 512 for name, value in pairs.items())
    return pairs if fits else None
