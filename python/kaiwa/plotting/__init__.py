"""Pictures of calls, with matplotlib (`pip install 'kaiwa[plot]'`).

`plot_call` draws arrays, `kaiwa plot` files. Both give figures of matplotlib that belong to no
window, so they may be made in any thread, and notebooks show them.
"""

from __future__ import annotations

from kaiwa.plotting.arrays import plot_call
from kaiwa.plotting.output import save
from kaiwa.plotting.package import require

__all__ = ["plot_call", "require", "save"]
