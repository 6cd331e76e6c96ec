"""The items of a conversation, as far as they are remembered."""

from __future__ import annotations

import json
from typing import Any

#: Items, and characters of them, that are remembered; beyond, the oldest are forgotten.
MOST_ITEMS, MOST_SIZE = 500, 1 << 20
#: Kinds of items that clients make.
KINDS = ("message", "function_call", "function_call_output")
#: Parts of a message by who says it.
_PARTS = {
    "user": ("input_text", "input_audio", "input_image"),
    "system": ("input_text",),
    "assistant": ("output_text", "output_audio", "text", "audio"),
}


class Conversation:
    """Items in their order. The model hears audio alone: they are kept for the client."""

    def __init__(self) -> None:
        self._items: dict[str, dict[str, Any]] = {}
        self._sizes: dict[str, int] = {}
        #: The last item, though it may be forgotten.
        self.last: str | None = None

    def __contains__(self, item_id: str) -> bool:
        return item_id in self._items

    def get(self, item_id: str) -> dict[str, Any] | None:
        """An item; None if it is not known."""
        return self._items.get(item_id)

    def before(self, item_id: str) -> str | None:
        """The id of the item before another; None if it is the first, or not known."""
        order = list(self._items)
        at = order.index(item_id) if item_id in self._items else 0
        return order[at - 1] if at else None

    def add(self, item: dict[str, Any], after: str | None = None) -> str | None:
        """Adds or replaces an item.

        Args:
            item: with its `id`.
            after: where a new one belongs: the id of another, `root` for the beginning; behind the
                last otherwise.

        Returns:
            The id of the item before it; None if there is none.
        """
        item_id = item["id"]
        self._sizes[item_id] = len(json.dumps(item))
        if item_id in self._items:
            self._items[item_id] = item
            return None
        order = list(self._items)
        if after == "root":
            before, at = None, 0
        elif after in self._items:
            before, at = after, order.index(after) + 1
        else:
            before, at = self.last, len(order)
        if at == len(order):
            self._items[item_id] = item
            self.last = item_id
        else:
            order.insert(at, item_id)
            self._items = {name: self._items.get(name, item) for name in order}
        while len(self._items) > MOST_ITEMS or sum(self._sizes.values()) > MOST_SIZE:
            self.remove(next(iter(self._items)))
        return before

    def remove(self, item_id: str) -> None:
        """Forgets an item, if it is known."""
        self._items.pop(item_id, None)
        self._sizes.pop(item_id, None)
        if self.last == item_id:
            self.last = next(reversed(self._items), None)


def read(item: Any, new_id: str) -> dict[str, Any] | None:
    """An item that a client sent, as it is told back: complete, and without audio or images.

    Args:
        item: of any type.
        new_id: its id, if the client gives it none.

    Returns:
        None if it is no item.
    """
    if not isinstance(item, dict) or item.get("type") not in KINDS:
        return None
    item_id = item.get("id")
    if item_id is not None and not (isinstance(item_id, str) and 0 < len(item_id) <= 512):
        return None
    made: dict[str, Any] = {
        "id": item_id or new_id,
        "object": "realtime.item",
        "type": item["type"],
        "status": "completed",
    }
    if item["type"] == "message":
        role, content = item.get("role"), item.get("content")
        if role not in _PARTS or not isinstance(content, list):
            return None
        parts = [_part(part, role) for part in content]
        return {**made, "role": role, "content": [part for part in parts if part is not None]}
    names = {"function_call": ("name", "arguments"), "function_call_output": ("output",)}
    for name in ("call_id", *names[item["type"]]):
        if not isinstance(item.get(name), str):
            return None
        made[name] = item[name]
    return made


def _part(part: Any, role: str) -> dict[str, Any] | None:
    """A part of a message; None if it is none."""
    if not isinstance(part, dict) or part.get("type") not in _PARTS[role]:
        return None
    kind = {"text": "output_text", "audio": "output_audio"}.get(part["type"], part["type"])
    told: dict[str, Any] = {"type": kind}
    for name in ("text", "transcript"):
        if isinstance(part.get(name), str):
            told[name] = part[name]
    return told
