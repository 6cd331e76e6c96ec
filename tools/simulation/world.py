"""A world: servers, Redis, callers and faults, all of them from one seed."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import logging
import random
import tempfile
import time
import warnings
from collections.abc import Coroutine, Iterator
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kaiwa.server.settings import ServerSettings
from tools.simulation import plan as plans
from tools.simulation.callers import Caller
from tools.simulation.checks import Checks, Violation
from tools.simulation.faults import Faults
from tools.simulation.instance import Instance, Machine
from tools.simulation.keys import SimulatedKeys
from tools.simulation.loop import CURRENT, Spinning, VirtualLoop
from tools.simulation.plan import KeyPlan, Plan
from tools.simulation.redis_link import RedisNetwork

#: Seconds since 1970 when worlds begin.
EPOCH = 1_900_000_000.0
#: Seconds that everything may take to come to rest after the last caller has left.
REST_SECONDS = 240.0
_NO_LIMITS = KeyPlan(None, None, None)


@dataclass(frozen=True)
class Report:
    """What became of a world.

    Attributes:
        seed: of the world.
        violation: the invariant that did not hold; None: all did.
        hours: simulated hours of calls, and of the world.
        seconds: that it took.
        outcomes: what happened, counted.
        digest: of what happened: the same for the same seed.
    """

    seed: int
    violation: Violation | None
    call_hours: float
    world_hours: float
    seconds: float
    outcomes: dict[str, int]
    digest: str


class World:
    """See the module."""

    def __init__(self, seed: int, plan: Plan, folder: Path) -> None:
        self.seed = seed
        self.plan = plan
        self.rng = random.Random(f"{seed} callers")
        self.fault_rng = random.Random(f"{seed} faults")
        self.loop = VirtualLoop()
        self.context = copy_context()
        self.redis_offset = 0.0
        self.redis = RedisNetwork(
            self.loop, random.Random(f"{seed} redis"), lambda: self.wall() + self.redis_offset
        )
        self.loop.connect = lambda protocol, host: self.redis.connect(protocol)
        self.loop.before_time = self._before_time
        self.loop.after_time = self._after_time
        self.checks = Checks(self)
        self.loop.on_error = self._loop_error
        self.faults = Faults(self)
        self.keys = SimulatedKeys(plan.keys) if plan.keys else None
        self.secrets = self.keys.secrets if self.keys is not None else []
        self.machines = [Machine(f"s{n}") for n in range(plan.machines)]
        self.partition = False
        self.lively = True
        self.ending = False
        self.talkativeness = 0.6 if plan.slots < 20 else 0.1
        self.numbers = 0
        self.call_seconds = 0.0
        self.audit_seconds = 1.0
        self._secret_file = folder / "secret"
        self._secret_file.write_text("s" * 40)
        self._callers: dict[asyncio.Task[None], None] = {}
        self._fatal: BaseException | None = None

    # ---- what others ask -------------------------------------------------------------------

    def wall(self) -> float:
        """Seconds since 1970, by a clock that is right."""
        return EPOCH + self.loop.now

    def instances(self) -> list[Instance]:
        """The servers that run."""
        return [m.up for m in self.machines if m.up is not None and not m.up.dead]

    def parted(self, one: Instance, other: Instance) -> bool:
        """Whether two servers cannot reach each other."""
        return self.partition and one is not other

    def key_plan(self, key_id: str) -> KeyPlan:
        """What a key allows."""
        return self.keys.plans.get(key_id, _NO_LIMITS) if self.keys is not None else _NO_LIMITS

    def keys_now(self) -> tuple[Any, ...]:
        """Every key there ever was."""
        return self.keys.entries() if self.keys is not None else ()

    def callers_now(self) -> int:
        """How many callers there are."""
        return len(self._callers)

    def start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Somebody does something, beside the others."""
        task = self.context.copy().run(self.loop.create_task, coroutine)
        self._callers[task] = None
        task.add_done_callback(self._caller_over)

    def _caller_over(self, task: asyncio.Task[None]) -> None:
        self._callers.pop(task, None)
        if not task.cancelled() and task.exception() is not None:
            self._fatal = self._fatal or task.exception()

    # ---- servers ---------------------------------------------------------------------------

    def boot(self, machine: Machine) -> None:
        """Starts a server on a machine."""
        plan = self.plan
        settings = ServerSettings(
            model="echo",
            slots=plan.slots,
            queue=plan.queue,
            queue_seconds=plan.queue_seconds,
            resume_seconds=plan.resume_seconds,
            idle_seconds=plan.idle_seconds,
            max_seconds=plan.max_seconds,
            token_seconds=plan.token_seconds,
            redis_url="redis://redis:6379" if plan.shared else None,
            redis_down=plan.redis_down,
            token_secret_file=str(self._secret_file) if plan.shared else None,
            advertise_url=machine.address,
            drain_seconds=5.0,
            no_auth=self.keys is None,
        )
        machine.starts += 1
        machine.up = instance = self.context.copy().run(Instance, self, machine, settings)
        task = instance.spawn(self.loop, instance.run())
        task.add_done_callback(lambda done: self._instance_over(instance, done))

    def _instance_over(self, instance: Instance, task: asyncio.Task[None]) -> None:
        if not instance.dead and not task.cancelled() and task.exception() is not None:
            self.checks.fail("errors", f"a server died: {task.exception()!r}")

    def crash(self, instance: Instance) -> None:
        """A server dies, and another is started after a while."""
        if not instance.dead:
            instance.kill()
            self._boot_later(instance)

    def restart(self, instance: Instance) -> None:
        """A server is stopped as planned, and another is started."""
        instance.stopping = True

        async def stop() -> None:
            await instance.stop()
            while not instance.dead:
                await asyncio.sleep(0.1)

        task = instance.spawn(self.loop, stop())
        task.add_done_callback(
            lambda _: self._boot_later(instance) if instance.machine.up is instance else None
        )

    def replace_if_closed(self, instance: Instance) -> None:
        """What the orchestrator does with a server that is not healthy."""
        engine = instance.engine
        if not instance.dead and engine is not None and engine.readiness.state == "closed":
            self.crash(instance)

    def _boot_later(self, instance: Instance) -> None:
        if instance.machine.up is instance:
            instance.machine.up = None
            delay = self.fault_rng.choice((0.05, 1.0, 6.0))
            self.loop.exactly_at(self.loop.now + delay, self.boot, instance.machine)

    # ---- time ------------------------------------------------------------------------------

    def _before_time(self) -> bool:
        """All is done at this moment but what the engines have to do."""
        busy = False
        for machine in self.machines:
            instance = machine.up
            if instance is not None and instance.engine is not None:
                busy |= instance.engine.pump_if_woken()
        if not busy:
            self.checks.moment()
            self._stop_if_broken()
        return busy

    def _after_time(self) -> None:
        for machine in self.machines:
            instance = machine.up
            if instance is not None and instance.engine is not None:
                instance.engine.hand.tick(self.loop.now)

    def _stop_if_broken(self) -> None:
        if self.checks.violation is not None:
            raise self.checks.violation
        if self._fatal is not None:
            raise self._fatal

    def _loop_error(self, context: dict[str, Any]) -> None:
        """The loop would log an error."""
        error = context.get("exception")
        self.checks.fail("errors", f"{context.get('message')}: {error!r}")

    # ---- the course of things --------------------------------------------------------------

    async def run(self, hours: float) -> None:
        """Lively and quiet times in turn, until there were so many hours of calls; then rest."""
        for machine in self.machines:
            self.boot(machine)
        self.start(self._audits())
        self.start(self._arrivals())
        plan = self.plan
        while True:
            until = self.loop.now + plan.slack + plan.lively
            self.lively, self.loop.slack, self.audit_seconds = True, 0.0, 1.0
            # Until the last timer has fired that was late.
            await asyncio.sleep(plan.slack)
            faults = asyncio.ensure_future(self.faults.go_on(until))
            await asyncio.sleep(plan.lively)
            await faults
            if self.call_seconds >= hours * 3600 or not plan.quiet:
                break
            self.faults.mend_all()
            self.lively, self.loop.slack, self.audit_seconds = False, plan.slack, 20.0
            await asyncio.sleep(plan.quiet)
        await self._rest()

    async def _audits(self) -> None:
        while not self.ending:
            await asyncio.sleep(self.audit_seconds)
            self.checks.audit()

    async def _arrivals(self) -> None:
        """New callers, as long as there is room for them."""
        while not self.ending:
            lively = self.lively or self.callers_now() < self.plan.callers // 2
            mean = self.plan.call_seconds / self.plan.callers
            await asyncio.sleep(self.rng.expovariate(1 / (min(mean, 1.0) if lively else mean)))
            if self.callers_now() < self.plan.callers + 2:
                self.start(Caller(self).run())

    async def _rest(self) -> None:
        """Everybody leaves, everything is mended, and nothing may be left."""
        self.faults.mend_all()
        self.ending, self.loop.slack = True, 0.0
        for machine in self.machines:
            machine.wall_offset = 0.0
        until = self.loop.now + REST_SECONDS + self.plan.resume_seconds
        left = "waiting: nobody has looked"
        while self.loop.now < until:
            await asyncio.sleep(1.0)
            if self._callers:
                left = f"waiting {len(self._callers)} callers wait for ever"
                continue
            left = self.checks.at_rest()
            if not left:
                return
        self.checks.fail(*left.split(" ", 1))


#: What a server says for the operator when its engine hangs, or its device has failed.
_EXPECTED = ("the engine did not end within", "the engine has failed")


class _ErrorsAreViolations(logging.Handler):
    """The servers' log: what they log as an error is one."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.ERROR)
        self.world = world

    def emit(self, record: logging.LogRecord) -> None:
        process = CURRENT.get()
        expected = record.getMessage().startswith(_EXPECTED)
        if not expected and (process is None or not process.dead):
            text = record.getMessage()
            if record.exc_info:
                text += "\n" + logging.Formatter().formatException(record.exc_info)
            self.world.checks.fail("errors", f"logged: {text}")


@contextlib.contextmanager
def _logs(world: World) -> Iterator[None]:
    """While the block runs, the servers' log is looked at and not written."""
    log = logging.getLogger("kaiwa")
    handler = _ErrorsAreViolations(world)
    before = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.ERROR)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before[0])
        log.propagate = before[1]


#: The kinds of worlds that a seed has.
KINDS = ("dense", "restless", "large")
#: Hours of calls in a large one.
LARGE_HOURS = 250.0


def run_kind(seed: int, kind: str) -> Report:
    """Lives through the world of a seed that is of one of the `KINDS`."""
    make = {"dense": plans.dense, "restless": plans.restless, "large": plans.large}[kind]
    plan = make(random.Random(f"{seed} plan"))
    return run(seed, plan, LARGE_HOURS if kind == "large" else 0.0)


def run(seed: int, plan: Plan, hours: float = 0.0) -> Report:
    """Lives through a world.

    Args:
        seed: of everything that is left to chance.
        plan: what the world is like.
        hours: of calls, at least; without them, or for a plan without quiet times, one lively time.
    """
    with warnings.catch_warnings():
        # A server that is killed closes nothing.
        warnings.simplefilter("ignore", ResourceWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        report = _live(seed, plan, hours)
        gc.collect()
    return report


def _live(seed: int, plan: Plan, hours: float) -> Report:
    """One world, to its end."""
    began = time.monotonic()
    violation: Violation | None = None
    with tempfile.TemporaryDirectory() as folder:
        world = World(seed, plan, Path(folder))
        with _logs(world):
            try:
                world.loop.run_until_complete(world.run(hours))
                world._stop_if_broken()
            except Violation as found:
                # Without the frames in which it was found, which hold the whole world.
                violation = Violation(found.invariant, found.text)
            except Spinning as found:
                violation = Violation("waiting", str(found))
            finally:
                _tear_down(world)
    outcomes = dict(sorted(world.checks.outcomes.items()))
    digest = hashlib.sha256(f"{world.loop.callbacks} {outcomes}".encode()).hexdigest()[:16]
    return Report(
        seed,
        violation,
        world.call_seconds / 3600,
        world.loop.now / 3600,
        time.monotonic() - began,
        outcomes,
        digest,
    )


def _tear_down(world: World) -> None:
    """Leaves no task behind that would complain."""
    loop = world.loop
    loop.before_time = lambda: False
    loop.on_error = lambda context: None
    for machine in world.machines:
        if machine.up is not None and not machine.up.dead:
            machine.up.kill()
    with contextlib.suppress(BaseException):
        loop.run_until_complete(_end_all(loop))
    loop.close()


async def _end_all(loop: VirtualLoop) -> None:
    for _ in range(20):
        tasks = [t for t in asyncio.all_tasks(loop) if t is not asyncio.current_task()]
        if not tasks:
            return
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=30.0)
