"""Memory of this process."""

from __future__ import annotations

import os
from pathlib import Path


def resident() -> int | None:
    """Resident memory in bytes; ``None`` where there is no `/proc`."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None
