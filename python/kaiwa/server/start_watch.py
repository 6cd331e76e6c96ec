"""Whether a model that is being loaded gets any further.

A download may take hours, so the time alone tells nothing: what counts is how long there was no
progress.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

#: Share of a processor from which on loading counts as work: weights are being packed.
WORKING = 0.2


class StartWatch:
    """Looks from time to time whether loading gets further."""

    def __init__(
        self,
        seconds: float,
        now: float,
        *,
        downloaded: Callable[[], int] | None = None,
        worked: Callable[[], float] = time.process_time,
    ) -> None:
        """Begins to watch.

        Args:
            seconds: without progress after which loading counts as stuck.
            now: seconds, on a clock that never goes back.
            downloaded: bytes of models that were downloaded so far; None reads the folder in which
                models are kept.
            worked: seconds of a processor that this process has had.
        """
        self._seconds = seconds
        self._downloaded = cached_bytes if downloaded is None else downloaded
        self._worked = worked
        self._looked = self._progress = now
        self._bytes, self._work = self._downloaded(), worked()

    def stuck(self, now: float) -> bool:
        """Looks; whether there was no progress for too long."""
        found, work = self._downloaded(), self._worked()
        passed = now - self._looked
        if found != self._bytes or (passed > 0 and work - self._work > WORKING * passed):
            self._progress = now
        self._looked, self._bytes, self._work = now, found, work
        return now - self._progress > self._seconds


def cached_bytes() -> int:
    """Bytes of all models that were downloaded on this machine, unfinished files included."""
    from huggingface_hub import constants

    total = 0
    for folder, _, names in os.walk(Path(constants.HF_HUB_CACHE)):
        for name in names:
            try:
                total += Path(folder, name).lstat().st_size
            except OSError:  # moved to its place meanwhile
                continue
    return total
