"""The section of docs/gpu.md that says what was measured, made of a report's JSON alone."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tools.gpu import report

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "gpu.md"
#: The report that the page shows; absent as long as nothing was run on a GPU.
REPORT = ROOT / "docs" / "gpu.json"

_BEGIN, _END = "<!-- measured: begin -->\n", "<!-- measured: end -->\n"
_NOTHING = (
    "**Nothing has been run on a GPU yet.** Every time of a GPU elsewhere in these pages is an\n"
    "estimate.\n"
)


def section(path: Path = REPORT) -> str:
    """What was measured, as Markdown.

    Args:
        path: a gpu.json; where there is no such file, the section says that nothing was run.

    Raises:
        ValueError: It is no report, or one that was not made on a GPU.
    """
    if not path.exists():
        return _NOTHING
    result = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(result, dict) or "asked" not in result:
        raise ValueError(f"{path} is no report of scripts/gpu/run")
    if not str(result["asked"]).startswith("cuda"):
        raise ValueError(f"{path} was made on {result['asked']}, not on a GPU")
    return re.sub(r"^## ", "### ", report.markdown(result), flags=re.M)


def rendered(page: str, measured: str) -> str:
    """The page with its section replaced.

    Raises:
        ValueError: The page has no place for it.
    """
    before, begin, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"the page lacks {_BEGIN.strip()} or {_END.strip()}")
    return f"{before}{begin}\n{measured}\n{end}{after}"


def write(path: Path) -> None:
    """Brings the page up to date with a report, which becomes the repository's."""
    measured = section(path)
    if path.exists() and path.resolve() != REPORT:
        REPORT.write_bytes(path.read_bytes())
    PAGE.write_text(rendered(PAGE.read_text(encoding="utf-8"), measured), encoding="utf-8")
