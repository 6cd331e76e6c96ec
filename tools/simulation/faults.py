"""What goes wrong, and how it is put right again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from tools.simulation.instance import Instance

if TYPE_CHECKING:
    from tools.simulation.world import World


class Faults:
    """Makes things go wrong in one world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.rng = world.fault_rng
        self._repairs: dict[Callable[[], object], None] = {}

    async def go_on(self, until: float) -> None:
        """One fault after the other, for a while."""
        world, plan = self.world, self.world.plan
        if plan.fault_every == float("inf"):
            return
        while True:
            await asyncio.sleep(self.rng.expovariate(1 / plan.fault_every))
            if world.loop.now >= until:
                return
            name = self.rng.choice(plan.faults)
            world.checks.outcomes[f"fault {name}"] += 1
            getattr(self, "_" + name.replace(" ", "_"))()

    def mend_all(self) -> None:
        """Everything that is still wrong is put right."""
        for repair in list(self._repairs):
            repair()

    def _for(self, seconds: float, repair: Callable[[], object]) -> None:
        """Puts right after a while, or when everything is."""

        def once() -> None:
            if once in self._repairs:
                del self._repairs[once]
                repair()

        self._repairs[once] = None
        self.world.loop.exactly_at(self.world.loop.now + seconds, once)

    def _some(self) -> Instance | None:
        """A server that runs."""
        running = [i for i in self.world.instances() if not i.dead]
        return self.rng.choice(running) if running else None

    def _at_some_await(self, instance: Instance, what: Callable[[], object]) -> None:
        """Does something to a server between two of its next awaits."""
        instance.on_fuse = what
        instance.fuse = self.rng.choice((0, 1, 3, 10, self.rng.randint(0, 200)))

    # ---- servers ---------------------------------------------------------------------------

    def _crash(self) -> None:
        instance = self._some()
        if instance is not None:
            world = self.world

            def die() -> None:
                if not instance.dead:
                    # Not from within its own callback.
                    instance.stopped = True
                    world.loop.call_soon(world.crash, instance, context=world.context)

            self._at_some_await(instance, die)

    def _restart(self) -> None:
        instance = self._some()
        if instance is not None and not instance.stopping:
            self.world.restart(instance)

    def _stop(self) -> None:
        instance = self._some()
        if instance is None:
            return
        seconds = self.rng.choice((0.05, 0.4, 2.0, 6.0, 20.0))

        def stop() -> None:
            if instance.dead or instance.stopped:
                return
            instance.stopped = True
            since = self.world.loop.now

            def go_on() -> None:
                instance.stopped_seconds += self.world.loop.now - since
                if not instance.dead:
                    self.world.checks.stood_still(instance, self.world.loop.now - since)
                    self.world.loop.resume(instance)

            self._for(seconds, go_on)

        self._at_some_await(instance, stop)

    def _operator_ends(self) -> None:
        instance = self._some()
        if instance is not None and instance.engine is not None:
            infos = instance.engine.sessions()
            if infos:
                instance.engine.end_session(
                    self.rng.choice(infos).id, "ended by the operator; call again later"
                )

    # ---- engines ---------------------------------------------------------------------------

    def _engine_hangs(self) -> None:
        instance = self._some()
        if instance is not None and instance.engine is not None:
            seconds = self.rng.choice((0.3, 3.0, 12.0))
            instance.engine.hang(seconds)
            instance.stopped_seconds += seconds

    def _fault(self, fault: str) -> None:
        instance = self._some()
        if instance is not None and instance.engine is not None:
            instance.engine.hand.set_fault(fault)

    def _step_fails(self) -> None:
        self._fault("error")

    def _step_panics(self) -> None:
        self._fault("panic")

    def _step_row(self) -> None:
        self._fault("row")

    def _device_fails(self) -> None:
        instance = self._some()
        if instance is not None and instance.engine is not None:
            instance.engine.hand.set_fault("device")
            # The orchestrator replaces what is not healthy.
            self._for(self.rng.uniform(1, 10), lambda: self.world.replace_if_closed(instance))

    def _slow_steps(self) -> None:
        instance = self._some()
        if instance is not None and instance.engine is not None:
            hand = instance.engine.hand
            hand.set_step_seconds(*self.rng.choice(((0.05, 0.01), (0.09, 0.0), (0.2, 0.0))))
            plan = self.world.plan
            self._for(self.rng.uniform(1, 8), lambda: hand.set_step_seconds(*plan.step_seconds))

    # ---- Redis -----------------------------------------------------------------------------

    def _redis_stops(self, *, empty: bool = False) -> None:
        redis, checks = self.world.redis, self.world.checks
        redis.stop()

        def start() -> None:
            redis.listens = True
            if empty:
                redis.store.clear()
                checks.wiped_at = self.world.loop.now

        self._for(self.rng.choice((0.1, 2.0, 20.0)), start)

    def _redis_loses_all(self) -> None:
        self._redis_stops(empty=True)

    def _redis_is_slow(self) -> None:
        redis = self.world.redis
        redis.slow = self.rng.choice((0.02, 0.1, 0.2, 1.0))
        self._for(self.rng.uniform(1, 20), lambda: setattr(redis, "slow", 0.0))

    def _redis_refuses_writes(self) -> None:
        store = self.world.redis.store
        store.readonly = True
        self._for(self.rng.uniform(0.5, 10), lambda: setattr(store, "readonly", False))

    def _redis_cuts_answers(self) -> None:
        redis = self.world.redis
        redis.cut_after_command = self.rng.choice((0.05, 0.5))
        self._for(self.rng.uniform(1, 10), lambda: setattr(redis, "cut_after_command", 0.0))

    def _redis_unreachable(self) -> None:
        instance = self._some()
        if instance is not None:
            instance.cut_off = True
            seconds = self.rng.choice((0.2, 3.0, 20.0))
            self._for(seconds, lambda: setattr(instance, "cut_off", False))

    def _redis_connections_break(self) -> None:
        self.world.redis.lose_all()

    # ---- the rest --------------------------------------------------------------------------

    def _servers_parted(self) -> None:
        self.world.partition = True
        self._for(self.rng.uniform(1, 15), lambda: setattr(self.world, "partition", False))

    def _clock_jumps(self) -> None:
        machine = self.rng.choice(self.world.machines)
        machine.wall_offset = self.rng.choice((0.0, 0.0, 0.5, -0.5, 30.0, -30.0, 3600.0))
        if not self.world.plan.shared:
            # Its tokens go by its own clock.
            self.world.checks.wiped_at = self.world.loop.now

    def _redis_clock_jumps(self) -> None:
        self.world.redis_offset += self.rng.choice((0.3, -0.3, 20.0, -20.0))
        self.world.checks.wiped_at = self.world.loop.now

    def _key_revoked(self) -> None:
        keys = self.world.keys
        if keys is not None and keys.secrets:
            keys.revoke(self.rng.randrange(len(keys.secrets)))
            self.world.secrets = keys.secrets

    def _slow_network(self) -> None:
        for instance in self.world.instances():
            for channel in instance.channels:
                if self.rng.random() < 0.5:
                    channel.stand_still(self.rng.uniform(0.1, 6.0))
