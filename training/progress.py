"""What every trainer does beside its losses: the learning rate, a curve, checkpoints in time."""

from __future__ import annotations

import argparse
import csv
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def rate(step: int, options: argparse.Namespace) -> float:
    """Learning rate of a step: a short rise, then a cosine to a twentieth."""
    rise = min(1.0, (step + 1) / 100)
    done = min(1.0, step / options.steps)
    return float(options.lr * rise * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done))))


def save(path: Path, state: dict[str, Any]) -> None:
    """Replaces a checkpoint whole."""
    temporary = path.with_suffix(".new")
    torch.save(state, temporary)
    temporary.replace(path)


def load(path: Path) -> dict[str, Any]:
    """A checkpoint; empty if there is none."""
    return dict(torch.load(path, weights_only=True)) if path.exists() else {}


def write_row(path: Path, row: dict[str, Any]) -> None:
    """Adds a row to a curve."""
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        if fresh:
            writer.writeheader()
        writer.writerow(row)


class Progress:
    """The steps of a run: sets their rate, prints and writes means, says when to save.

    Attributes:
        step: number of the next step.
    """

    def __init__(
        self, curve: Path, options: argparse.Namespace, step: int = 0, every: int = 50
    ) -> None:
        self.curve, self.options, self.step, self.every = curve, options, step, every
        self.sums: dict[str, float] = {}
        self.counted = 0
        self.saved = self.started = time.time()

    @property
    def goes_on(self) -> bool:
        """Whether a step is left."""
        return bool(self.step < self.options.steps)

    def begin(self, optimiser: torch.optim.Optimizer) -> None:
        """Sets the learning rate of the next step."""
        for group in optimiser.param_groups:
            group["lr"] = rate(self.step, self.options)

    def end(self, parts: dict[str, Tensor]) -> None:
        """Counts a step and its figures."""
        for name, value in parts.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value.detach())
        self.step += 1
        self.counted += 1

    def report(self, tested: Callable[[], dict[str, float]] | None = None) -> None:
        """Prints and writes a row if it is time, with figures of held-out data if there are."""
        if self.step % self.every and self.goes_on:
            return
        row: dict[str, Any] = {"step": self.step}
        row |= {name: round(value / self.counted, 4) for name, value in self.sums.items()}
        if tested:
            row |= {f"test_{name}": round(value, 4) for name, value in tested().items()}
        print(f"{time.time() - self.started:.0f} s", row, flush=True)
        write_row(self.curve, row)
        self.sums.clear()
        self.counted = 0

    def save_due(self) -> bool:
        """Whether it is time for a checkpoint, which then counts as made."""
        due = time.time() - self.saved > 60 * self.options.minutes or not self.goes_on
        if due:
            self.saved = time.time()
        return due
