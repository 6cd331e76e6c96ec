"""Writes the web page's copy of `kaiwa.reasons`: `python -m tools.page_reasons`."""

from __future__ import annotations

import json
from pathlib import Path

from kaiwa.reasons import REASONS

PAGE = Path(__file__).parents[1] / "python" / "kaiwa" / "server" / "static" / "js" / "reasons.js"


def javascript() -> str:
    """The table as a module for browsers."""
    rows = (
        f"  {reason.name}: {{\n"
        f"    kind: {json.dumps(reason.kind)},\n"
        f"    title: {json.dumps(reason.title)},\n"
        f"    sentence: {json.dumps(reason.sentence)},\n"
        "  },\n"
        for reason in REASONS.values()
    )
    return (
        "// Made from kaiwa/reasons.py by `python -m tools.page_reasons`: change the table there.\n"
        "\n"
        "/** Why a call ends or is refused, by the reason of the websocket's close frame. */\n"
        f"export const REASONS = {{\n{''.join(rows)}}};\n"
    )


if __name__ == "__main__":
    PAGE.write_text(javascript(), encoding="utf-8")
