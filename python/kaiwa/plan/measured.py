"""Times of a step from the report of a run on a GPU (`scripts/gpu/run` writes it as gpu.json)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from kaiwa.errors import InputError
from kaiwa.plan.model import MODELS, Model
from kaiwa.plan.steps import StepTimes

#: Names that the report has for forms of weights.
_FORMATS = {"bf16": "bf16", "int8": "q8", "int4": "q4"}
#: The model of `kaiwa.plan.model` that is measured in a run of a size.
_MODELS = {"full": "7b"}

_Times = dict[int, float]


def read(path: str, model: Model, weights: str) -> StepTimes:
    """Language model with the window full, and codec both ways, by conversations.

    Args:
        path: of a gpu.json.
        model: whose steps are wanted.
        weights: their form, of `kaiwa.plan.model.WEIGHT_BYTES`.

    Raises:
        InputError: It is no such report, or has no rows of this model in this form.
    """
    report = _report(path)
    measured = _MODELS.get(str(report.get("sizes")))
    # A folder or file with a model of the same sizes is as good.
    if measured is None or replace(model, name=measured) != MODELS[measured]:
        raise InputError(
            f"{path} was measured with "
            + (f"the model {measured}" if measured else "small models, to try the kit itself")
            + f", not with {model.name}; measure that, or give times with --step"
        )
    form = _FORMATS[weights]
    lm = _times(
        path,
        report,
        "lm",
        "step_ms",
        f"of format {form} with the window full",
        lambda row: row.get("format") == form and row.get("window") == "full",
    )
    codec = _times(path, report, "mimi", "both_ms", "of the codec", lambda _: True)
    of_codec = StepTimes(tuple(sorted(codec.items())), True, "")
    points = tuple((n, lm[n] + of_codec.seconds(n)) for n in sorted(lm))
    return StepTimes(points, True, f"{Path(path).name}: {_card(report)}, {form}, window full")


def _report(path: str) -> dict[str, Any]:
    """The report's fields."""
    try:
        report = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(report, dict) or "sizes" not in report:
        raise InputError(f"{path} is no report of scripts/gpu/run; give its gpu.json")
    return report


def _times(
    path: str,
    report: dict[str, Any],
    stage: str,
    field: str,
    what: str,
    wanted: Callable[[dict[str, Any]], bool],
) -> _Times:
    """Seconds by conversations of the rows of a stage; those that failed have no times."""
    rows = [row for row in _rows(report.get(stage)) if wanted(row)]
    try:
        times = {
            int(row["slots"]): float(row[field]["median"]) / 1e3 for row in rows if field in row
        }
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: a row of {stage} is damaged ({error!r})") from error
    if len(times) < 2 or not all(n >= 1 and 0 < t < 60 for n, t in times.items()):
        failed = (report.get("errors") or {}).get(stage)
        raise InputError(
            f"{path} has {len(times)} usable rows {what}, and two are needed at least"
            + (f"; the stage {stage} failed: {str(failed)[:200]}" if failed else "")
            + "; measure again, or give times with --step"
        )
    return times


def _rows(stage: object) -> Iterable[dict[str, Any]]:
    """The rows of a stage; none if it was not run."""
    rows = stage.get("rows") if isinstance(stage, dict) else None
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _card(report: dict[str, Any]) -> str:
    """Where it was measured."""
    device = report.get("device")
    card = device.get("card") if isinstance(device, dict) else None
    name = card.get("name") if isinstance(card, dict) else None
    return str(name or report.get("asked", "unknown device"))
