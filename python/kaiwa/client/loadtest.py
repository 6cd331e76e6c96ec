"""Many calls at once against one server, cheap enough for a hundred on one core: the audio is
encoded once for all calls, and answers are counted, not decoded."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kaiwa.client import wires
from kaiwa.client.connection import ChatClient
from kaiwa.client.loadtest_report import CallRecord
from kaiwa.client.messages import FRAME, FRAME_SECONDS, Audio, Text
from kaiwa.client.params import ChatParams
from kaiwa.client.schedule import Schedule
from kaiwa.client.transport import Format
from kaiwa.client.wire import Message
from kaiwa.errors import ServerError

#: Seconds after the last frame in which its answer may come.
GRACE = 1.0
#: Seconds between the start of the driver's processes and the first call.
PREPARATION = 2.0


@dataclass(frozen=True)
class LoadTestOptions:
    """What every call does.

    Attributes:
        url, key, protocol, format, params: as for :func:`kaiwa.client.connect`.
        ramp: seconds over which the calls begin; 0: all at once.
        wait: seconds that a call waits for a slot.
        decode: decode the answers and measure their level.
        held_back: frames that the model holds back at the end.
    """

    url: str
    key: str | None = None
    protocol: str = "kyutai"
    format: Format | None = None
    params: ChatParams = field(default_factory=ChatParams)
    ramp: float = 0.0
    wait: float = 30.0
    decode: bool = False
    held_back: int = 0


@dataclass
class WorkerResult:
    """What one process did: its calls, and the share of a core that it took."""

    records: list[CallRecord]
    cpu: float


def prepare(
    frames: Iterable[NDArray[np.float32]],
    audio_format: Format | None = None,
    advance: Callable[[int], object] | None = None,
    protocol: str = "kyutai",
) -> list[list[Message]]:
    """The messages of a call, some for each frame of 80 ms; `advance` is called with 1 for each."""
    wire = wires.wire(protocol, audio_format)
    outgoing = []
    for frame in frames:
        outgoing.append(wire.audio(frame))
        if advance is not None:
            advance(1)
    return outgoing


def looped(pcm: NDArray[np.float32], count: int) -> Iterable[NDArray[np.float32]]:
    """`count` frames of audio that begins again when it ends."""
    position = np.arange(FRAME)
    for number in range(count):
        yield pcm[(number * FRAME + position) % len(pcm)]


async def call(
    options: LoadTestOptions, outgoing: Sequence[Sequence[Message]], begin: float
) -> CallRecord:
    """One call, which begins at a time of `time.perf_counter()`."""
    record = CallRecord(wanted=len(outgoing), energy=0.0 if options.decode else None)
    await asyncio.sleep(begin - time.perf_counter())
    asked = time.perf_counter()
    try:
        chat = await ChatClient.open(
            options.url,
            key=options.key,
            protocol=options.protocol,
            format=options.format,
            params=options.params,
            decode=options.decode,
            timeout=options.wait,
        )
    except ServerError as error:
        record.outcome = error.code
        return record
    try:
        handshake = await chat.ready(max(0.0, asked + options.wait - time.perf_counter()))
        if chat.wire.announces:
            record.waited = handshake.at - asked
        await _converse(chat, options, outgoing, record, asked)
    except ServerError as error:
        record.outcome = error.code
    finally:
        await chat.close()
    return record


async def _converse(
    chat: ChatClient,
    options: LoadTestOptions,
    outgoing: Sequence[Sequence[Message]],
    record: CallRecord,
    asked: float,
) -> None:
    """A frame each 80 ms, and the answers meanwhile."""
    line, schedule = record.timeline, Schedule(time.perf_counter())
    line.continuous = chat.wire.continuous
    record.lateness = schedule.lateness
    target = len(outgoing) - options.held_back
    complete = asyncio.Event()
    receiver = asyncio.create_task(_receive(chat, record, target, complete, asked))
    answered = asyncio.create_task(complete.wait())
    try:
        for messages in outgoing:
            await asyncio.sleep(schedule.due - time.perf_counter())
            if receiver.done():
                break
            schedule.go(time.perf_counter())
            if not await chat.send(messages):
                break
            line.sent.append(time.perf_counter())
        await asyncio.wait({receiver, answered}, timeout=GRACE, return_when=asyncio.FIRST_COMPLETED)
        if receiver.done():
            receiver.result()
            if len(line.sent) < len(outgoing):
                record.outcome = chat.close_reason or f"close_{chat.close_code}"
    finally:
        record.skipped = schedule.skipped
        receiver.cancel()
        answered.cancel()
        await asyncio.gather(receiver, answered, return_exceptions=True)


async def _receive(
    chat: ChatClient,
    record: CallRecord,
    target: int,
    complete: asyncio.Event,
    asked: float,
) -> None:
    """Counts answers until the call ends; says when there are `target` frames. Where the server
    does not announce a slot, the first audio shows that there is one."""
    count = chat.wire.counter()
    async for event in chat:
        if isinstance(event, Audio):
            if record.waited is None:
                record.waited = event.at - asked
            if record.energy is not None:
                samples = len(event.pcm)
                record.energy += float(np.dot(event.pcm, event.pcm))
            else:
                samples = count(event.payload)
            if event.frame is not None:
                record.timeline.skip_to(event.frame, silent=event.begins)
            record.timeline.receive(samples, event.at)
            if len(record.timeline.answered) >= target:
                complete.set()
        elif isinstance(event, Text):
            record.texts += 1


async def calls(
    options: LoadTestOptions, outgoing: Sequence[Sequence[Message]], offsets: Sequence[float]
) -> list[CallRecord]:
    """Calls in this process, each `offsets` seconds from now."""
    now = time.perf_counter()
    return await asyncio.gather(*(call(options, outgoing, now + offset) for offset in offsets))


def run(
    options: LoadTestOptions, outgoing: Sequence[Sequence[Message]], count: int, processes: int = 1
) -> list[WorkerResult]:
    """`count` calls, dealt out to `processes` processes.

    Args:
        options: what every call does.
        outgoing: messages of a call, from :func:`prepare`.
        count: number of calls.
        processes: 1: all in this process.
    """
    offsets = [options.ramp * number / count for number in range(count)]
    shares = [offsets[i::processes] for i in range(min(processes, count))]
    if len(shares) == 1:
        return [_worker(options, outgoing, offsets, time.time())]
    start = time.time() + PREPARATION
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(shares), mp_context=context) as pool:
        futures = [pool.submit(_worker, options, outgoing, share, start) for share in shares]
        return [future.result() for future in futures]


def _worker(
    options: LoadTestOptions,
    outgoing: Sequence[Sequence[Message]],
    offsets: Sequence[float],
    start: float,
) -> WorkerResult:
    """The calls of one process, counted from a time of `time.time()`."""
    wait = max(0.0, start - time.time())
    began, busy = time.perf_counter() + wait, time.process_time()
    records = asyncio.run(calls(options, outgoing, [wait + offset for offset in offsets]))
    wall = max(1e-9, time.perf_counter() - began)
    return WorkerResult(records, (time.process_time() - busy) / wall)


def frames_in(seconds: float) -> int:
    """Frames of a call of that length; at least one."""
    return max(1, round(seconds / FRAME_SECONDS))
