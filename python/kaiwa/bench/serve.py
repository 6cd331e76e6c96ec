"""`kaiwa bench serve`: how many calls a server carries here, and what it adds to the model.

Server and callers share the machine; the callers' share of it is printed. Three questions:

1. `echo`: with an engine that computes nothing, what do Opus (or the audio of another wire
   protocol), websockets and Python cost?
2. `model`: with a model, how many calls are in time, beside what the codec's and the model's own
   batched steps would allow?
3. `overhead`: from a frame's last byte to its answer, less the step that made it.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kaiwa.bench import picture
from kaiwa.client import own_server
from kaiwa.errors import DeviceError, InputError
from kaiwa.terminal import progress, table

if TYPE_CHECKING:
    from kaiwa.loading import Parts
    from kaiwa.plotting.picture import Picture

#: A call is in time if no frame is missing and 99 % of answers come within this, in ms.
ECHO_LIMIT = 40.0
MODEL_LIMIT = 160.0
FRAME_SECONDS = 0.08
#: How long a server may take to load, in seconds: random weights of the released size are made
#: first.
LOAD_SECONDS = 900.0


@dataclass(frozen=True)
class Served:
    """Which model is served and where, as for `kaiwa serve`."""

    model: str
    mimi: str
    device: str
    quantize: str | None

    def options(self) -> tuple[str, ...]:
        """Of `kaiwa serve`."""
        rounded = ("--quantize", self.quantize) if self.quantize else ()
        return (
            *("--model", self.model, "--mimi", self.mimi, "--device", self.device),
            *rounded,
        )

    def load(self) -> Parts:
        """The same in this process."""
        from kaiwa import loading

        return loading.load(self.model, mimi=self.mimi, device=self.device, quantize=self.quantize)


class Server(own_server.OwnServer):
    """A `kaiwa serve` started for the bench, and what it costs."""

    def cpu_seconds(self) -> float | None:
        """Processor time so far; ``None`` where the system does not tell."""
        try:
            with open(f"/proc/{self.pid}/stat", encoding="ascii") as file:  # noqa: PTH123
                fields = file.read().rsplit(")", 1)[1].split()
        except OSError:
            return None
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def histogram(self, name: str) -> list[tuple[float, float]]:
        """Upper bounds and cumulated counts."""
        pattern = rf'^{name}_bucket{{le="([^"]+)"}} (\S+)$'
        found = re.findall(pattern, self.get("/metrics").decode(), re.M)
        return [(float(bound), float(count)) for bound, count in found]


@contextlib.contextmanager
def serving(*options: str) -> Iterator[Server]:
    """A server for the length of a measurement."""
    with own_server.serving(*options, seconds=LOAD_SECONDS) as found:
        yield Server(found.port, found.pid)


@contextlib.contextmanager
def started(*options: str, quiet: bool) -> Iterator[Server]:
    """The same, with a bar while it loads."""
    with contextlib.ExitStack() as stack:
        with progress.bar("starting a server", None, quiet=quiet):
            server = stack.enter_context(serving(*options))
        yield server


def machine_seconds() -> float | None:
    """Processor time of all programs on the machine so far: what is more than the server's and
    the callers' was somebody else's, and spoils the measurement."""
    try:
        with open("/proc/stat", encoding="ascii") as file:  # noqa: PTH123
            user, nice, system, _idle, _wait, irq, soft, steal = map(
                int, file.readline().split()[1:9]
            )
    except (OSError, ValueError):
        return None
    return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")


def calls(
    server: Server, count: int, seconds: float, processes: int, protocol: str = "kyutai"
) -> dict[str, Any]:
    """So many calls at once, and what became of them."""
    from kaiwa.client import loadtest
    from kaiwa.client.loadtest_report import report
    from kaiwa.synth import voice

    frames = loadtest.frames_in(seconds)
    sound = loadtest.looped(voice(min(seconds, 20.0)), frames)
    outgoing = loadtest.prepare(sound, protocol=protocol)
    options = loadtest.LoadTestOptions(url=f"127.0.0.1:{server.port}", protocol=protocol)
    before, all_before, began = server.cpu_seconds(), machine_seconds(), time.perf_counter()
    workers = loadtest.run(options, outgoing, count, processes)
    wall = time.perf_counter() - began
    after, all_after = server.cpu_seconds(), machine_seconds()
    busy = None if all_before is None or all_after is None else all_after - all_before
    summary = report([record for worker in workers for record in worker.records])
    cores = None if before is None or after is None else (after - before) / wall
    return {
        "calls": count,
        "admitted": summary["calls"]["admitted"],
        "missing_frames": summary["frames"]["missing"],
        "latency_p50_ms": summary["frame_latency_ms"]["p50"],
        "latency_p99_ms": summary["frame_latency_ms"]["p99"],
        "underruns": summary["playback_of_100_ms"]["underruns"],
        "sent_late_p99_ms": summary["send_lateness_ms"]["p99"],
        "server_cores": None if cores is None else round(cores, 2),
        "server_cpu_per_call_percent": None if cores is None else round(100 * cores / count, 2),
        "driver_cores": round(sum(worker.cpu for worker in workers), 2),
        "all_cores": None if busy is None else round(busy / wall, 2),
    }


def in_time(row: dict[str, Any], limit: float) -> bool:
    """Whether every call got all its frames soon enough."""
    p99 = row["latency_p99_ms"]
    return bool(
        row["admitted"] == row["calls"]
        and row["missing_frames"] == 0
        and p99 is not None
        and p99 < limit
    )


def quantile(buckets: list[tuple[float, float]], part: float) -> float | None:
    """The bucket bound below which so much lies."""
    if not buckets or not buckets[-1][1]:
        return None
    wanted = buckets[-1][1] * part
    return next(bound for bound, count in buckets if count >= wanted)


def own_cost(parts: Parts, slots: int, steps: int = 30) -> float:
    """Seconds of a batched step of codec and model without a server around them; infinite if the
    device has no memory for so many slots."""
    import numpy as np

    from kaiwa.duplex import Duplex

    try:
        duplex = Duplex(parts.moshi, parts.mimi, parts.tokenizer, slots=slots, seed=0, prime=True)
    except (DeviceError, InputError):
        if slots == 1:
            raise
        return math.inf
    rng = np.random.default_rng(0)
    pcm = (rng.standard_normal((slots, 1920)) * 0.1).astype(np.float32)
    for _ in range(3):
        duplex.step(pcm)
    times = []
    for _ in range(steps):
        began = time.perf_counter()
        duplex.step(pcm)
        times.append(time.perf_counter() - began)
    return sorted(times)[len(times) // 2]


def allowed(parts: Parts, limit: int) -> tuple[int, dict[int, float]]:
    """How many calls codec and model alone could step within a frame, at most `limit`; and what
    the steps tried took, in seconds."""
    costs: dict[int, float] = {}

    def fits(slots: int) -> bool:
        if slots not in costs:
            costs[slots] = own_cost(parts, slots)
        return costs[slots] < FRAME_SECONDS

    low, high = 0, 1
    while high <= limit and fits(high):
        low, high = high, high * 2
    high = min(high, limit + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low, dict(sorted(costs.items()))


def carried(
    served: Served, seconds: float, most: int, out: dict[str, Any], *, quiet: bool = True
) -> int:
    """The most calls in time, from `most` downward; rows go into `out`.

    A number of calls that was not in time is tried once more: what else the machine does for a
    moment says nothing about the server.
    """
    if not most:
        return 0
    room = ("--slots", str(most), "--step-budget-ms", "10000")
    with started(*served.options(), *room, quiet=quiet) as server:
        for count in range(most, 0, -1):
            for attempt in ("", "_again"):
                with progress.elapsing(f"{count} calls with the model", seconds, quiet=quiet):
                    row = calls(server, count, seconds, 1)
                fine = in_time(row, MODEL_LIMIT)
                out[f"{count}_calls{attempt}"] = {**row, "in_time": fine}
                if fine:
                    return count
    return 0


def echo_row(protocol: str, count: int) -> str:
    """Name of the row of so many calls by a protocol."""
    return f"{count}_calls" if protocol == "kyutai" else f"{protocol}_{count}_calls"


def command(args: argparse.Namespace) -> int:
    """Measures and prints."""
    picture.check(args.plot)
    served = Served(args.model, args.mimi, args.device, args.quantize)
    out: dict[str, Any] = {"device": served.device, "of": f"{served.model}, {served.mimi}"}
    out |= {"echo": {}, "model": {}}
    progress.summary("echo: the server without a model", quiet=args.quiet)
    echo = ("--model", "synth:echo", "--slots", str(max(args.calls)))
    with started(*echo, quiet=args.quiet) as server:
        for protocol in args.protocol:
            for count in args.calls:
                with progress.elapsing(f"{count} calls", args.seconds, quiet=args.quiet):
                    row = calls(server, count, args.seconds, args.processes, protocol)
                out["echo"][echo_row(protocol, count)] = {
                    **row,
                    "in_time": in_time(row, ECHO_LIMIT),
                }
    progress.summary("what codec and model alone would allow", quiet=args.quiet)
    # Not kept: the servers need a device's memory.
    with progress.bar("stepping", None, quiet=args.quiet):
        most, costs = allowed(served.load(), args.most)
    out["own_step_ms"] = {
        str(slots): round(1e3 * cost, 2) if math.isfinite(cost) else "no memory"
        for slots, cost in costs.items()
    }
    out["own_steps_allow"] = most
    progress.summary(f"model: {out['of']} on {served.device}", quiet=args.quiet)
    out["carried"] = carried(served, args.seconds, most, out["model"], quiet=args.quiet)
    out["carried_of_allowed"] = round(out["carried"] / most, 2) if most else None
    small = ("--model", "synth:tiny", "--device", served.device, "--slots", "4")
    with started(*small, quiet=args.quiet) as server:
        with progress.elapsing("2 calls", args.seconds, quiet=args.quiet):
            calls(server, 2, args.seconds, 1)
        overhead = server.histogram("kaiwa_frame_overhead_seconds")
    for name, part in (("p50", 0.5), ("p99", 0.99)):
        value = quantile(overhead, part)
        out[f"overhead_{name}_below_ms"] = None if value is None else value * 1e3
    table.show(out, as_json=args.json)
    picture.write(args.plot, lambda: _picture(out), quiet=args.quiet)
    return 0


def _picture(summary: dict[str, Any]) -> Picture:
    """The figures drawn; matplotlib is loaded by those who draw."""
    from kaiwa.plotting import bench_serve

    return bench_serve.draw(summary, ECHO_LIMIT, MODEL_LIMIT)
