"""From a model, a device and a number of calls to replicas and the values of a stack file."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kaiwa.errors import InputError
from kaiwa.plan.device import Device
from kaiwa.plan.model import CODEC_BYTES, CODEC_STATE_BYTES, FRAME_RATE, Model
from kaiwa.plan.steps import StepTimes

#: Share of a device's memory that weights and states may fill.
MEMORY_SHARE = 0.9
#: Bytes that a process has besides weights and states.
PROCESS_BYTES = 1e9
#: What a step may never take: a frame's length.
FRAME_SECONDS = 1 / FRAME_RATE
#: A 95th percentile of step times over the median; admission looks at the percentile.
SPREAD = 1.1
#: Processor time of a call in the server without its model, and the part of it that is Python on
#: one thread; both measured (docs/benchmarks.md).
CALL_CORES = 0.0048
LOOP_CORES = 0.0016
#: Share of its one thread that Python may use.
LOOP_SHARE = 0.7
#: Most slots that a server may have.
MOST_SLOTS = 1024
#: More calls at once than there will be: a slip of the pen.
MOST_CALLS = 10**9

#: Bits a second of Ogg pages, measured on speech.
_PAGES = 45_400
#: Bytes around each message: its type, websocket, TLS, TCP/IP, Ethernet.
_AROUND = 1 + 4 + 22 + 40 + 18
#: Messages a second: clients of Kaiwa send one a frame, browsers two.
_OUT, _IN = FRAME_RATE, 2 * FRAME_RATE


@dataclass(frozen=True)
class Wanted:
    """What is asked for.

    Attributes:
        calls: at once, at the busiest moment; or on average, if `blocked` is given.
        weights: form of the weights: `bf16`, `int8`, `int4`.
        kv: form of keys and values; None is the device's default.
        seconds: longest conversation; None is no limit.
        budget: seconds that a step may take at the 95th percentile, as `--step-budget-ms`.
        spare: devices more than calls need, so that one may fail or be updated.
        blocked: share of callers that may find every slot taken (Erlang B); None takes `calls` as
            the most.
    """

    calls: int
    weights: str = "int8"
    kv: str | None = None
    seconds: float | None = 360.0
    budget: float = 0.06
    spare: int = 1
    blocked: float | None = None


@dataclass(frozen=True)
class Plan:
    """What comes of it; bytes, seconds, bits a second."""

    weight_bytes: float
    state_bytes: float
    kv: str
    steps: StepTimes
    by_memory: int
    by_time: int
    by_server: int
    slots: int
    #: Slots that calls need over all replicas, without the spare.
    needed: int
    replicas: int
    step_seconds: float
    step_alone_seconds: float
    cores: float
    #: Memory of one replica on the machine, apart from a GPU's.
    host_bytes: float
    bits_in: float
    bits_out: float

    @property
    def limited_by(self) -> str:
        """What keeps a device from carrying more."""
        pairs = (
            (self.by_memory, "memory"),
            (self.by_time, "step time"),
            (self.by_server, "server"),
        )
        return min(pairs)[1]


def plan(model: Model, device: Device, wanted: Wanted, steps: StepTimes | None = None) -> Plan:
    """How many replicas, of how many slots each.

    Args:
        model: the language model.
        device: one for each replica.
        wanted: what is asked for.
        steps: measured times of a step; None takes the device's own, or an estimate.

    Raises:
        InputError: the model does not fit into the device, or is too slow for one conversation; or
            something is asked for that cannot be.
    """
    kv = wanted.kv or device.kv
    if device.gpu and kv == "int8":
        raise InputError("kv_dtype int8 is for processors; use bfloat16 with a GPU")
    if wanted.calls < 1 or wanted.spare < 0 or not 0 < wanted.budget <= FRAME_SECONDS:
        raise InputError("give at least one call, no negative spare, and a budget of 80 ms or less")
    if wanted.calls > MOST_CALLS or wanted.spare > MOST_CALLS:
        raise InputError(f"give at most {MOST_CALLS} calls and devices")
    weights = model.weight_bytes(wanted.weights) + CODEC_BYTES
    reads = model.state_bytes(kv, wanted.seconds)
    state = reads + CODEC_STATE_BYTES
    room = device.memory * MEMORY_SHARE - PROCESS_BYTES - weights
    by_memory = max(0, int(room / state))
    if not by_memory:
        need = (weights + state + PROCESS_BYTES) / MEMORY_SHARE / 1e9
        raise InputError(
            f"{model.name} with {wanted.weights} weights does not fit into {device.name}: one "
            f"conversation needs {need:.1f} GB, it has {device.memory / 1e9:.0f}; use a coarser "
            "form (--weights int4), a smaller model or a larger device"
        )
    times = steps or device.steps(model, wanted.weights, kv, reads)
    by_time = times.most(wanted.budget / SPREAD, MOST_SLOTS)
    if not by_time and times.seconds(1) * SPREAD <= FRAME_SECONDS:
        # A server lets its first caller in whatever the budget is.
        by_time = 1
    if not by_time:
        raise InputError(
            f"a step of {model.name} with {wanted.weights} weights takes "
            f"{times.seconds(1) * 1000:.0f} ms on {device.name}, and a frame lasts 80: not even "
            "one conversation would keep up; use a smaller model, coarser weights or another "
            "device"
        )
    by_server = int(LOOP_SHARE / LOOP_CORES)
    slots = min(by_memory, by_time, by_server)
    needed = wanted.calls
    if wanted.blocked is not None:
        needed = servers_for(wanted.calls, wanted.blocked)
    replicas = math.ceil(needed / slots) + wanted.spare
    states = slots * state
    return Plan(
        weight_bytes=weights,
        state_bytes=state,
        kv=kv,
        steps=times,
        by_memory=by_memory,
        by_time=by_time,
        by_server=by_server,
        slots=slots,
        needed=needed,
        replicas=replicas,
        step_seconds=times.seconds(slots),
        step_alone_seconds=times.seconds(1),
        cores=slots * CALL_CORES,
        # A GPU's weights pass through the machine's memory while they are loaded, a tensor at a
        # time.
        host_bytes=PROCESS_BYTES * 2 if device.gpu else PROCESS_BYTES + weights + states,
        bits_in=_PAGES + _IN * _AROUND * 8,
        bits_out=_PAGES + _OUT * _AROUND * 8,
    )


def erlang_b(slots: int, load: float) -> float:
    """Share of callers that find every slot taken.

    Args:
        slots: of all replicas.
        load: conversations at once, on average, if nobody were sent away.
    """
    blocked = 1.0
    for count in range(1, slots + 1):
        blocked = load * blocked / (count + load * blocked)
    return blocked


def servers_for(load: float, blocked: float) -> int:
    """Fewest slots with which no more than a share of callers finds all taken.

    Raises:
        InputError: it is not a share.
    """
    if not 0 < blocked < 1:
        raise InputError(f"blocked is {blocked:g}; use a share of callers such as 0.001")
    # The recurrence forgets where it began. Well below the load nearly all that is too much is
    # blocked, so it need not begin at no slots.
    slots = max(0, int(load - 10 * math.sqrt(load)))
    share = 1.0 - slots / load
    if share <= blocked:
        slots, share = 0, 1.0
    while share > blocked:
        slots += 1
        share = load * share / (slots + load * share)
    return slots
