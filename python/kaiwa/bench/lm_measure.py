"""Timing of the language model's steps, weight kinds and peers taking turns round by round.

Every turn loads the model afresh, so loading is timed as often as stepping, nothing of an earlier
round is left, and only one model is in memory at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kaiwa.bench.bandwidth import Bandwidth
from kaiwa.bench.lm_model import Model, Stream, available_memory, room_for, user_codes
from kaiwa.bench.lm_peer import Peer, PeerError
from kaiwa.errors import KaiwaError

#: Untimed steps at the start of every measurement.
WARM_UP = 3

#: Positions between which step times are compared, both past the window of the released models.
EARLY, LATE = 3_500, 10_000

Load = Callable[[str], Model]


@dataclass(frozen=True)
class Plan:
    """What to measure."""

    formats: tuple[str, ...]
    slots: tuple[int, ...]
    steps: int
    rounds: int
    #: Of "short" and "full".
    windows: tuple[str, ...]
    threads: int
    device: str = "cpu"

    @property
    def on_cpu(self) -> bool:
        """Whether Kaiwa's kernels for the processor run, whose floor is its read bandwidth."""
        return self.device == "cpu"

    @property
    def on_gpu(self) -> bool:
        """Whether the model's memory is a device's, not the machine's."""
        return self.device.startswith(("cuda", "metal"))


@dataclass
class Steps:
    """Milliseconds of every timed step of all slots, one list per round."""

    rounds: list[list[float]] = field(default_factory=list)

    def medians(self) -> list[float]:
        """Median step of each round."""
        return [float(np.median(times)) for times in self.rounds]


@dataclass
class OwnTimes:
    """All times of one weight kind."""

    kind: str
    weight_bytes: int = 0
    step_bytes: list[tuple[str, int]] = field(default_factory=list)
    context: int = 0
    load_s: list[float] = field(default_factory=list)
    #: By slots and window.
    steps: dict[tuple[int, str], Steps] = field(default_factory=dict)
    #: By window, at one slot: per round, seconds of one step by stage.
    stages: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    #: By slots and window: running state per slot.
    state_bytes: dict[tuple[int, str], int] = field(default_factory=dict)
    #: By position, at one slot.
    long: dict[int, Steps] = field(default_factory=dict)


@dataclass
class PeerTimes:
    """All times of one peer."""

    program: Path
    label: str = ""
    load_s: list[float] = field(default_factory=list)
    steps: dict[str, Steps] = field(default_factory=dict)


@dataclass
class Results:
    """Everything measured, and what was left out and why."""

    bandwidth: Bandwidth = field(default_factory=Bandwidth)
    own: dict[str, OwnTimes] = field(default_factory=dict)
    peers: dict[str, PeerTimes] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def run(
    load: Load,
    plan: Plan,
    peers: Sequence[Peer],
    file: Path | None,
    weights: float | None,
    advance: Callable[[int], None],
) -> Results:
    """Every weight kind and peer in turn; odd rounds go in the opposite order.

    Args:
        load: gives a fresh model of a weight kind.
        plan: what to measure.
        peers: programs.
        file: the model as they read it.
        weights: about how many weights there are, to leave out what will not fit.
        advance: called with 1 after every turn.
    """
    results = Results()
    for peer in peers:
        if file is None:
            results.left_out[str(peer.program)] = "it needs one .gguf file with its config.json"
    for number in range(plan.rounds):
        if plan.on_cpu:
            results.bandwidth.measure()
        own_turns = [_own_turn(load, plan, results, kind, weights) for kind in plan.formats]
        peer_turns = [_peer_turn(plan, results, peer, file) for peer in peers if file is not None]
        # The first round tells the window's length, which the peers must be given.
        turns = [*own_turns, *peer_turns]
        for turn in turns[::-1] if number % 2 else turns:
            turn()
            advance(1)
    return results


def _own_turn(
    load: Load, plan: Plan, results: Results, kind: str, weights: float | None
) -> Callable[[], None]:
    """One round of a weight kind."""

    def turn() -> None:
        if kind in results.left_out:
            return
        reason = None if plan.on_gpu else room_for(kind, weights)
        if reason:
            results.left_out[kind] = reason
            return
        started = time.perf_counter()
        model = load(kind)
        loaded = time.perf_counter() - started
        own = results.own.setdefault(kind, OwnTimes(kind))
        own.load_s.append(loaded)
        own.weight_bytes = model.weight_bytes
        own.step_bytes = list(model.step_bytes)
        own.context = int(model.config["context"])
        for window in plan.windows:
            for slots in plan.slots:
                _measure(model, plan, own, slots, window, results)
        if "full" in plan.windows:
            _measure_long(model, plan, own)

    return turn


def _measure(
    model: Model, plan: Plan, own: OwnTimes, slots: int, window: str, results: Results
) -> None:
    """One measurement: fresh streams, their history, the timed steps."""
    key = (slots, window)
    name = f"{own.kind}, {slots} slots, {window} window"
    if name in results.left_out:
        return
    one = own.state_bytes.get((1, window))
    free = None if plan.on_gpu else available_memory()
    if one is not None and free is not None and one * slots > 0.92 * free:
        results.left_out[name] = (
            f"needs {one * slots / 1e9:.1f} GB of running state, {free / 1e9:.1f} GB are free"
        )
        return
    try:
        stream = model.stream(slots, temp=0.0, temp_text=0.0)
    except KaiwaError as error:
        # More slots than a GPU has memory for: the other measurements still count.
        if not plan.on_gpu or slots == 1:
            raise
        results.left_out[name] = str(error)
        return
    if window == "full":
        stream.prefill_silence(own.context)
    times, seconds = time_steps(model, stream, slots, plan.steps)
    own.steps.setdefault(key, Steps()).rounds.append(times)
    own.state_bytes[key] = stream.state_bytes // slots
    if slots == 1:
        own.stages.setdefault(window, []).append(seconds)


def _measure_long(model: Model, plan: Plan, own: OwnTimes) -> None:
    """One conversation, timed early and late."""
    stream = model.stream(1, temp=0.0, temp_text=0.0)
    done = 0
    for position in (EARLY, LATE):
        stream.prefill_silence(position - done)
        times, _ = time_steps(model, stream, 1, plan.steps)
        own.long.setdefault(position, Steps()).rounds.append(times)
        done = position + WARM_UP + plan.steps


def time_steps(
    model: Model, stream: Stream, slots: int, steps: int
) -> tuple[list[float], dict[str, float]]:
    """Milliseconds of each of `steps` steps, after `WARM_UP`; and seconds of a step by stage."""
    codes = [user_codes(model, slots, step) for step in range(WARM_UP + steps)]
    for given in codes[:WARM_UP]:
        stream.step(given)
    stream.clear_stage_seconds()
    times = []
    for given in codes[WARM_UP:]:
        started = time.perf_counter()
        stream.step(given)
        times.append(1e3 * (time.perf_counter() - started))
    return times, {name: total / steps for name, total in stream.stage_seconds.items()}


def _peer_turn(plan: Plan, results: Results, peer: Peer, file: Path | None) -> Callable[[], None]:
    """One round of a peer: a fresh process for each window."""
    key = str(peer.program)

    def turn() -> None:
        if key in results.left_out or file is None or not results.own:
            return
        context = max(own.context for own in results.own.values())
        times = results.peers.setdefault(key, PeerTimes(peer.program))
        try:
            for window in plan.windows:
                answer = peer.run(
                    file,
                    steps=plan.steps,
                    warm_up=WARM_UP,
                    prefill=context if window == "full" else 0,
                    threads=plan.threads,
                )
                times.label = answer.label
                times.steps.setdefault(window, Steps()).rounds.append(answer.step_ms)
            times.load_s.append(answer.load_s)
        except PeerError as error:
            results.left_out[key] = str(error)
            results.peers.pop(key, None)

    return turn
