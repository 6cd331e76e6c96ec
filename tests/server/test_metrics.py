"""The metrics that the server has are those that docs/metrics.md tells of."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.server.live import Live, eventually
from tests.server.wire import call

ROW = re.compile(r"^\| `(kaiwa_\w+)` \| (\w+) \| ([^|]*)\|", re.M)
PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def exposed(live: Live) -> dict[str, tuple[str, frozenset[str]]]:
    """Name as it is scraped, kind, labels. A family without a sample has no labels to show."""
    found = {}
    for family in text_string_to_metric_families(live.state.metrics.text().decode()):
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        found[name] = (family.type, frozenset(labels))
    return found


async def test_the_page_tells_of_every_metric_and_of_no_other(
    echo: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with call(echo.url()):
        pass
    await eventually(lambda: b"kaiwa_conversations_ended_total{" in echo.state.metrics.text())
    metrics = echo.state.metrics
    metrics.rejected.labels("kyutai", "full").inc(0)
    metrics.alone.labels("limits").inc(0)
    metrics.resumed.labels("here").inc(0)
    # No call is left that would ask the shared state anything.
    await eventually(lambda: echo.quiet)
    shared = SimpleNamespace(redis=SimpleNamespace(up=True, failures=0))
    monkeypatch.setattr(echo.state, "shared", shared)
    told = {
        name: (kind, frozenset(label for label in labels.strip().split(", ") if label))
        for name, kind, labels in ROW.findall(PAGE.read_text(encoding="utf-8"))
    }
    assert told == exposed(echo)
