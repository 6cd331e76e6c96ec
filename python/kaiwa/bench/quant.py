"""`kaiwa bench quant`: what holding the weights in fewer bits does to the logits.

The reference is the bf16 model, run greedily along fixed user codes. Every other level is led along
the tokens that the reference chose, so that step by step the two differ in their weights alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from kaiwa.bench import lm_model
from kaiwa.bench.lm_model import Floats, Ints, Model
from kaiwa.bench.report import MIN_WIDTH, table
from kaiwa.errors import InputError
from kaiwa.terminal import progress

#: Held in bf16 like the released weights.
REFERENCE = "bf16"

#: Compared with the reference, smallest change first.
LEVELS = ("float32", "int8", "int4")


@dataclass(frozen=True)
class Trace:
    """Logits and tokens of a run of one slot."""

    #: `[steps, text_card]`
    text: Floats
    #: `[steps, dep_q, card]`
    audio: Floats
    #: `[steps]`
    text_tokens: Ints
    #: `[steps, dep_q]`
    audio_tokens: Ints


@dataclass(frozen=True)
class Difference:
    """How far logits are from the reference's."""

    #: Largest absolute difference.
    largest: float
    #: Root of the mean square of the difference.
    rms: float
    #: The same over that of the reference's logits.
    relative: float
    #: Share of the draws whose most likely token is the reference's.
    top1: float

    @classmethod
    def of(cls, logits: Floats, reference: Floats) -> Difference:
        """Between two arrays of the same shape, `[..., vocabulary]`."""
        wanted: NDArray[np.float64] = reference.astype(np.float64)
        apart = logits.astype(np.float64) - wanted
        rms = float(np.sqrt(np.mean(apart**2)))
        size = float(np.sqrt(np.mean(wanted**2)))
        same = logits.argmax(axis=-1) == reference.argmax(axis=-1)
        return cls(
            largest=float(np.abs(apart).max()),
            rms=rms,
            relative=rms / size if size > 0 else float("inf" if rms > 0 else 0),
            top1=float(same.mean()),
        )


def trace(model: Model, steps: int, along: Trace | None = None) -> Trace:
    """Runs one slot: greedily, or led along the tokens of another run."""
    stream = model.stream(1, temp=0.0, temp_text=0.0)
    text, audio, text_tokens, audio_tokens = [], [], [], []
    for step in range(steps):
        user = lm_model.user_codes(model, 1, step)
        if along is None:
            chosen = stream.step(user)
        else:
            chosen = stream.step(
                user,
                force_text=along.text_tokens[step][None],
                force_audio=along.audio_tokens[step][None],
            )
        text.append(np.array(stream.text_logits[0]))
        audio.append(np.array(stream.audio_logits[0]))
        text_tokens.append(np.array(chosen.step_text_tokens[0]))
        audio_tokens.append(np.array(chosen.step_audio_tokens[0]))
    return Trace(np.stack(text), np.stack(audio), np.stack(text_tokens), np.stack(audio_tokens))


def compare(
    load: Callable[[str], Model],
    levels: Sequence[str],
    steps: int,
    advance: Callable[[int], None],
) -> list[dict[str, Any]]:
    """Every level against the reference; only one model is in memory at a time."""
    reference = trace(load(REFERENCE), steps)
    advance(1)
    rows = []
    for level in levels:
        model = load(level)
        found = trace(model, steps, reference)
        rows.append(
            {
                "level": level,
                "weight_bytes": model.weight_bytes,
                "text": asdict(Difference.of(found.text, reference.text)),
                "audio": asdict(Difference.of(found.audio, reference.audio)),
            }
        )
        advance(1)
    return rows


def command(args: argparse.Namespace) -> int:
    """Runs the comparison for the parsed arguments and prints it."""
    path = Path(args.source)
    weights = lm_model.weights_in(path) if path.exists() else None
    left_out = {}
    levels = []
    for level in LEVELS:
        reason = lm_model.room_for(level, weights)
        if reason:
            left_out[level] = reason
        else:
            levels.append(level)
    reason = lm_model.room_for(REFERENCE, weights)
    if reason:
        raise InputError(f"the reference, {REFERENCE}, {reason}; use a smaller model")
    with progress.bar("comparing", 1 + len(levels), quiet=args.quiet) as advance:
        rows = compare(lambda kind: lm_model.load(args.source, kind), levels, args.steps, advance)
    summary = {
        "model": args.source,
        "reference": REFERENCE,
        "steps": args.steps,
        "levels": rows,
        "left_out": left_out,
    }
    if args.json:
        print(json.dumps(summary, indent=1))
    else:
        show(summary)
    return 0


def show(summary: dict[str, Any]) -> None:
    """Prints the comparison for people."""
    console = Console()
    console = Console(width=max(MIN_WIDTH, console.width))
    found = table(
        f"Logits against {summary['reference']}, {summary['steps']} steps along its tokens",
        "weights",
        "logits",
        "largest difference",
        "rms",
        "rms, % of logits",
        "same first choice %",
        "MB in memory",
    )
    for row in summary["levels"]:
        for part in ("text", "audio"):
            value = row[part]
            found.add_row(
                row["level"] if part == "text" else "",
                part,
                f"{value['largest']:.4g}",
                f"{value['rms']:.4g}",
                f"{100 * value['relative']:.3g}",
                f"{100 * value['top1']:.1f}",
                f"{row['weight_bytes'] / 1e6:.0f}" if part == "text" else "",
            )
    console.print(f"model {summary['model']}", highlight=False, markup=False)
    console.print(found)
    for name, reason in summary["left_out"].items():
        console.print(f"{name}: left out, {reason}", highlight=False, markup=False)
