"""What runs beside the routes: loading the model, looking after calls, closing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from kaiwa.engine import Engine
from kaiwa.errors import KaiwaError
from kaiwa.server.build import Server
from kaiwa.server.key_uses import KeyUses
from kaiwa.server.start_watch import StartWatch

log = logging.getLogger("kaiwa.server")

#: Seconds between looks at the live calls.
WATCH = 0.25
#: Seconds that the engine may take to end.
CLOSE_SECONDS = 5.0
#: Seconds before the end of their calls at which clients are told that the server stops.
NOTICE_SECONDS = 30.0
#: Seconds that a frame lasts: a step must take less.
FRAME_SECONDS = 0.08
#: Seconds between two looks at whether loading gets further.
LOOK_AT_START = 15.0
#: Seconds between two writings of when keys were used.
KEEP_USES = 5.0


@contextlib.asynccontextmanager
async def running(server: Server) -> AsyncIterator[None]:
    """Loads the model and looks after calls while the block runs; closes everything after it."""
    if server.shared is not None:
        # Before anybody calls: the first caller's limits are asked for there.
        await server.shared.sync()
    tasks = [asyncio.create_task(_watch(server)), asyncio.create_task(_load(server))]
    if server.access.uses is not None:
        tasks.append(asyncio.create_task(_keep_uses(server.access.uses)))
    if server.shared is not None:
        tasks.append(asyncio.create_task(server.shared.maintain()))
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        if server.shared is not None:
            await server.shared.close()
        if server.state.engine is not None:
            await _close(server, server.state.engine)
        if server.access.uses is not None:
            await asyncio.to_thread(server.access.uses.write)
        await asyncio.to_thread(server.calls.audit.close)
        await asyncio.to_thread(server.calls.tracing.close)


async def drain(server: Server) -> None:
    """Takes nobody new, lets calls end, ends those that have not after the limit, and says so."""
    state, limit = server.state, server.settings.drain_limit
    log.info("draining", extra={"queue": len(server.live), "seconds": limit})
    state.start_drain()
    began = state.clock()
    told = False
    while server.live and (limit is None or state.clock() - began < limit):
        if limit is not None and not told and state.clock() - began >= limit - NOTICE_SECONDS:
            told = True
            for call in server.live:
                call.notify_drain(limit - (state.clock() - began))
        await asyncio.sleep(0.1)
    for call in server.live:
        call.drain()
    asked = state.clock()
    while server.live and state.clock() - asked < CLOSE_SECONDS:
        await asyncio.sleep(0.05)
    state.drained.set()


async def _load(server: Server) -> None:
    """Loads the model, while health is answered."""
    state = server.state
    try:
        engine = await _loaded(server)
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        log.error("the model could not be loaded; the server stops")
        state.fail(error)
        return
    state.engine = engine
    if state.draining:
        engine.drain()
    readiness = engine.readiness
    log.info("ready", extra={"model": engine.name, "slots": readiness.slots_total})
    if readiness.step_p95_seconds > FRAME_SECONDS:
        log.warning(
            "one step takes %.0f ms, a frame lasts 80: conversations cannot keep up on this "
            "machine; use a smaller or coarser model (--quantize int4) or a GPU",
            readiness.step_p95_seconds * 1000,
        )


async def _loaded(server: Server) -> Engine:
    """What loading gives.

    Raises:
        KaiwaError: It makes no progress any more.
    """
    state, limit = server.state, server.settings.start_seconds
    work = server.apart("kaiwa-load", lambda: server.load(server.settings))
    loading: asyncio.Future[Engine] = asyncio.ensure_future(work)
    try:
        watch = await asyncio.to_thread(StartWatch, limit, state.clock())
        while True:
            await asyncio.wait({loading}, timeout=min(limit / 4, LOOK_AT_START))
            if loading.done():
                return loading.result()
            if await asyncio.to_thread(watch.stuck, state.clock()):
                raise KaiwaError(
                    f"the model {state.model} was not loaded, and nothing of it came for "
                    f"{limit:g} s; look at the network, the disk and the address it comes from "
                    "(start_seconds allows more)"
                )
    finally:
        loading.cancel()


async def _keep_uses(uses: KeyUses) -> None:
    """Writes down from time to time when keys were used."""
    while True:
        await asyncio.sleep(KEEP_USES)
        await asyncio.to_thread(uses.write)


async def _close(server: Server, engine: Engine) -> None:
    """Closes the engine. Waits for the step that is running, but not for one that hangs."""
    try:
        await asyncio.wait_for(server.apart("kaiwa-close", engine.close), CLOSE_SECONDS)
    except asyncio.TimeoutError:
        log.error("the engine did not end within %g s; leaving it", CLOSE_SECONDS)


async def _watch(server: Server) -> None:
    """Looks after calls, and measures for how long the event loop takes nothing else: how late this
    has its turn, and how long it takes itself."""
    loop = asyncio.get_running_loop()
    failed = False
    while True:
        due = loop.time() + WATCH
        await asyncio.sleep(WATCH)
        began = loop.time()
        now = server.state.clock()
        if server.state.fault == "failed" and not failed:
            failed = True
            log.error(
                "the engine has failed and takes no more calls; restart the server: %s",
                server.state.engine.readiness.failure if server.state.engine else "",
            )
        try:
            for call in server.live:
                call.watch(now)
            server.held.sweep()
        except Exception:
            log.exception("looking after the calls failed")
        server.metrics.lag.observe(max(0.0, began - due) + loop.time() - began)
        try:
            await server.access.follow_keys()
        except Exception:
            log.exception("looking after the keys failed")
