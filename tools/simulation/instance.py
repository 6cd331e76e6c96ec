"""One run of a server, from its start until it stops or dies; and the machine on which servers run
one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from websockets.exceptions import ConnectionClosedError
from websockets.frames import Close

from kaiwa.engine import Engine
from kaiwa.server.build import Server, build
from kaiwa.server.channel import Message
from kaiwa.server.lifecycle import drain, running
from kaiwa.server.refusal import Refused
from kaiwa.server.settings import ServerSettings
from kaiwa.server.shared.vouchers import HEADER as VOUCHER
from tools.simulation.channel import Client, SimulatedChannel
from tools.simulation.engine import SimulatedEngine, Stepped
from tools.simulation.loop import Process
from tools.simulation.protocol import PATH, SimulatedProtocol

if TYPE_CHECKING:
    from tools.simulation.world import World

T = TypeVar("T")

#: Seconds that a server waits for another one to answer; as of `forward.CONNECT_SECONDS`.
CONNECT_SECONDS = 2.0


class _Spy:
    """A counter with one label that tells of being counted up."""

    def __init__(self, inc: Callable[[str], object]) -> None:
        self._inc = inc

    def labels(self, label: str) -> _Spy:
        """As of `prometheus_client.Counter`."""
        return _Spy(lambda _: self._inc(label))

    def inc(self) -> None:
        """As of `prometheus_client.Counter`."""
        self._inc("")

    def collect(self) -> list[Any]:
        """Nobody reads the metrics."""
        return []


@dataclass
class Machine:
    """Where one server runs at a time.

    Attributes:
        name: host name.
        wall_offset: seconds by which its clock is ahead.
        up: the server on it; None while there is none.
        starts: how many there were.
    """

    name: str
    wall_offset: float = 0.0
    up: Instance | None = None
    starts: int = 0

    @property
    def address(self) -> str:
        """Where other servers reach it."""
        return f"http://{self.name}"


class Instance(Process):
    """One run of a server.

    Attributes:
        machine: on which it runs.
        began: when it was started.
        server: its parts; None while it is being built.
        engine: its engine; None while the model is loaded.
        channels: connections to it and the tasks that lead their calls, while those last.
        impaired_at: when it last stood still, or could not reach Redis, for so long that its leases
            may have lapsed.
    """

    def __init__(self, world: World, machine: Machine, settings: ServerSettings) -> None:
        super().__init__(machine.name)
        self.world = world
        self.machine = machine
        self.settings = settings
        self.began = world.loop.now
        self.server: Server | None = None
        self.engine: SimulatedEngine | None = None
        self.stopping = False
        self.channels: dict[SimulatedChannel, asyncio.Task[Any]] = {}
        self.impaired_at = -1e9
        self.fine_at = world.loop.now
        self.unanswered: dict[str, list[float]] = {"token": [], "limits": []}
        #: Conversations that got a slot here, and why they ended.
        self.starts = 0
        self.ends: list[str] = []
        #: The end that is just counted is that of a call without a connection.
        self.ends_held = False
        #: Why each of them ended, by its number, as the audit log has it; empty while it lasts.
        self.sessions: dict[int, str] = {}
        self.stopped_seconds = 0.0
        self.protocol = SimulatedProtocol()
        self._stop = asyncio.Event()

    # ---- its life --------------------------------------------------------------------------

    async def run(self) -> None:
        """From the start to the stop."""
        world = self.world
        self.server = server = build(
            self.settings,
            self._load,
            port=80,
            protocols=(self.protocol,),
            clock=world.loop.time,
            wall=lambda: world.wall() + self.machine.wall_offset,
            keys=world.keys,
            reach=self._reach,
            apart=self._apart,
        )
        self._spy(server)
        async with running(server):
            await self._stop.wait()
        self.dead = True

    def _spy(self, server: Server) -> None:
        """Notes what the server counts, at the moment at which it counts it."""
        metrics, counted = server.metrics, server.metrics.call_ended

        def call_ended(protocol: str, reason: str, seconds: float) -> None:
            self.ends.append(reason)
            self.world.checks.end_counted(self, reason, seconds)
            counted(protocol, reason, seconds)

        def inc(what: str) -> None:
            self.unanswered[what].append(self.world.loop.now)

        def write(event: str, **facts: Any) -> None:
            if event == "begin":
                self.world.checks.session_began(self, facts["session"])
            elif event == "end":
                self.world.checks.session_ended(self, facts["session"], facts["reason"])

        end_held = server.held.end

        def end(held: Any) -> None:
            self.ends_held = True
            try:
                end_held(held)
            finally:
                self.ends_held = False

        server.held.end = end  # type: ignore[method-assign]
        server.calls.audit.write = write  # type: ignore[method-assign]
        metrics.call_ended = call_ended  # type: ignore[method-assign]
        metrics.shared_unanswered = _Spy(inc)  # type: ignore[assignment]
        metrics.started = _Spy(lambda _: self._count_start())  # type: ignore[assignment]

    @property
    def takes_connections(self) -> bool:
        """Whether it listens."""
        return self.server is not None and not (self.dead or self.stopping)

    @property
    def own_tasks(self) -> int:
        """Tasks that it has without any call: itself, looking after calls, the shared state."""
        return 3 + 2 * (self.settings.redis_url is not None)

    def _count_start(self) -> None:
        self.starts += 1

    def _load(self, settings: ServerSettings) -> Engine:
        """Makes the engine."""
        engine = SimulatedEngine(
            self.world.loop,
            self,
            slots=settings.slots,
            queue=settings.queue,
            step_budget=settings.step_budget_ms / 1000,
            step_seconds=self.world.plan.step_seconds,
            on_steps=self._stepped,
        )
        self.engine = engine
        return engine

    def _stepped(self, rows: list[Stepped]) -> None:
        self.world.checks.stepped(self, rows)

    async def _apart(self, name: str, work: Callable[[], T]) -> T:
        """Work that takes its time: loading, closing."""
        seconds = self.world.plan.load_seconds if name == "kaiwa-load" else 0.05
        await asyncio.sleep(self.world.rng.uniform(0, seconds))
        result = work()
        if self.engine is not None:
            self.engine.pump()
        return result

    async def stop(self) -> None:
        """A planned stop: drain, then end."""
        self.stopping = True
        while self.server is None:
            await asyncio.sleep(0.1)
        await drain(self.server)
        self._stop.set()

    def kill(self) -> None:
        """The process dies: nothing that it does from now on reaches anybody."""
        self.dead = True
        self.world.redis.lose_all(self)
        for channel in list(self.channels):
            channel.cut()
        self.world.loop.resume(self)
        self.fuse = None
        for task in list(self.tasks):
            task.cancel()
        if self.engine is not None:
            self.engine.hangs = False
            self.engine.close()
            self.engine.pump()

    # ---- connections -----------------------------------------------------------------------

    def connect(
        self, client: Client, headers: Mapping[str, str], query: Mapping[str, str], latency: float
    ) -> SimulatedChannel:
        """A new connection."""
        assert self.server is not None
        channel = SimulatedChannel(self.world.loop, self, client, headers, query, PATH, latency)
        task = self.spawn(self.world.loop, self.server.run_call(self.protocol, channel))
        self.channels[channel] = task
        task.add_done_callback(lambda done: self._call_over(channel, done))
        return channel

    def _call_over(self, channel: SimulatedChannel, task: asyncio.Task[Any]) -> None:
        self.channels.pop(channel, None)
        if not self.dead:
            self.world.checks.call_over(self, channel, task)

    async def _reach(self, address: str, path: str, query: Mapping[str, str], voucher: str) -> Any:
        """As `forward.reach`, over the simulated network."""
        world = self.world
        await asyncio.sleep(world.rng.uniform(0.0005, 0.003))
        target = next((m.up for m in world.machines if m.address == address), None)
        if target is None or target.dead or target.server is None or world.parted(self, target):
            return None
        asked = {name: value for name, value in query.items() if name != "token"}
        upstream = Upstream(world, target, {VOUCHER: voucher}, asked)
        task = asyncio.current_task()
        channel = next(c for c, leading in self.channels.items() if leading is task)
        upstream.channel.caller_key = channel.caller_key
        try:
            await asyncio.wait_for(upstream.answered(), CONNECT_SECONDS)
        except asyncio.TimeoutError:
            upstream.abort()
            return None
        except BaseException:
            upstream.abort()
            raise
        refused = upstream.refused
        if refused is not None:
            if refused.status in (401, 429):
                raise refused
            return None
        if upstream.gone:
            return None
        channel.forwarded = True
        return upstream


class Upstream(Client):
    """The connection of one server to another, as far as `Forward` uses a websocket's."""

    def __init__(
        self, world: World, target: Instance, headers: Mapping[str, str], query: Mapping[str, str]
    ) -> None:
        self.refused: Refused | None = None
        self.gone = False
        self._world = world
        self._inbox: list[Message] = []
        self._news = asyncio.Event()
        self._answered = False
        self._close: Close | None = None
        self.channel = target.connect(self, headers, query, 0.0005)
        self.transport = self
        self.protocol = self
        self.on_gone: list[Callable[[], Awaitable[None]]] = []

    @property
    def close_rcvd(self) -> Close | None:
        """The other server's close."""
        return self._close

    async def answered(self) -> None:
        """Waits for the answer to the request."""
        while not self._answered:
            self._news.clear()
            await self._news.wait()

    def _tell(self) -> None:
        self._answered = True
        self._news.set()

    def accepted(self) -> None:
        self._tell()

    def denied(self, refused: Refused) -> None:
        self.refused = refused
        self._tell()

    def message(self, message: Message) -> None:
        assert isinstance(message, bytes)
        self.active |= message[:1] == b"s"
        self._inbox.append(message)
        self._news.set()

    def closed(self, code: int, reason: str) -> None:
        self._close = Close(code, reason)
        self.lost()

    def lost(self) -> None:
        self.gone = True
        self._tell()

    async def send(self, message: Message) -> None:
        """To the other server."""
        if self.gone:
            raise ConnectionClosedError(self._close, None)
        self.channel.give(message)

    async def recv(self) -> Message:
        """From the other server."""
        while not self._inbox:
            if self.gone:
                raise ConnectionClosedError(self._close, None)
            self._news.clear()
            await self._news.wait()
        return self._inbox.pop(0)

    async def close(self, code: int = 1000) -> None:
        """Closes, politely."""
        self.channel.hang_up(code)
        await asyncio.sleep(0.001)

    def abort(self) -> None:
        """Cuts."""
        self.gone = True
        self.channel.cut()
        self._news.set()
