"""What a server tells about itself over HTTP (docs/server.md)."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from kaiwa import __version__, loading
from kaiwa.moshi import Sampling
from kaiwa.server import memory
from kaiwa.server.build import Server

_STARTED = int(time.time())


def readiness(server: Server) -> dict[str, Any]:
    """`/readyz`."""
    state = server.state
    engine = state.engine.readiness if state.engine is not None else None
    return {
        "state": state.readiness,
        "slots_total": engine.slots_total if engine else server.settings.slots,
        "slots_used": engine.slots_used if engine else 0,
        "step_p95_seconds": round(engine.step_p95_seconds, 6) if engine else 0.0,
    }


def info(server: Server) -> dict[str, Any]:
    """`/v1/info`."""
    engine, settings = server.state.engine, server.settings
    sampling = dataclasses.asdict(engine.default_sampling if engine is not None else Sampling())
    for name in sampling:
        own = getattr(settings, name)
        if own is not None:
            sampling[name] = own
    synthetic = engine.synthetic if engine is not None else loading.is_synthetic(settings.model)
    return {
        "model": server.state.model,
        "synthetic": synthetic,
        "auth": "none" if server.access.is_open else "key",
        "version": __version__,
        "sampling": sampling,
        "max_seconds": settings.call_seconds,
        "slots": settings.slots,
        "state": server.state.readiness,
    }


def models(server: Server) -> dict[str, Any]:
    """`/v1/models`."""
    model = {"id": server.state.model, "object": "model", "created": _STARTED, "owned_by": "kaiwa"}
    return {"object": "list", "data": [model]}


def sessions(server: Server) -> dict[str, Any]:
    """`/v1/sessions`."""
    return {"object": "list", "sessions": listing(server)}


def listing(server: Server) -> list[dict[str, Any]]:
    """A row for every live session, those that are held included, in the order of their ids."""
    rows = [call.listing() for call in server.live] + [call.listing() for call in server.held]
    return sorted((row for row in rows if row), key=lambda row: int(row["id"]))


def stats(server: Server) -> dict[str, Any]:
    """`/v1/stats`."""
    settings, state, engine = server.settings, server.state, server.state.engine
    out: dict[str, Any] = {
        "state": state.readiness,
        "model": state.model,
        "version": __version__,
        "uptime_seconds": round(state.uptime, 1),
        "slots_total": settings.slots,
        "slots_used": 0,
        "queue": 0,
        "budget_seconds": settings.step_budget_ms / 1000,
        "step": {
            "count": 0,
            "batch": 0,
            "last": 0.0,
            "p50": 0.0,
            "p95": 0.0,
            "p99": 0.0,
            "history": [],
        },
        "frames": 0,
        "deadline_missed": 0,
        "dropped_input": 0,
        "dropped_output": 0,
        "rejected": server.metrics.rejections(),
        "memory": {"rss": memory.resident(), "weights": 0, "state": 0},
        "sessions": listing(server),
    }
    if engine is None:
        return out
    ready, counts = engine.readiness, engine.stats()
    history = counts.history
    took = sorted(step.seconds for step in history)
    # The engine's clock began later than the server's, which the chart shows.
    shift = state.uptime - ready.now
    out.update(
        slots_total=ready.slots_total,
        slots_used=ready.slots_used,
        queue=ready.queue,
        frames=counts.frames_out,
        deadline_missed=counts.deadline_missed,
        dropped_input=counts.dropped_input,
        dropped_output=counts.dropped_output,
    )
    out["memory"]["state"] = ready.state_bytes
    if engine.moshi is not None:
        out["memory"]["weights"] = engine.moshi.weight_bytes
    if took:
        at = {p: took[min(len(took) - 1, int(len(took) * p))] for p in (0.5, 0.95, 0.99)}
        out["step"] = {
            "count": sum(counts.step.counts),
            "batch": history[-1].batch,
            "last": round(history[-1].seconds, 6),
            "p50": round(at[0.5], 6),
            "p95": round(at[0.95], 6),
            "p99": round(at[0.99], 6),
            "history": [
                [round(step.at + shift, 3), step.batch, round(step.seconds, 6)] for step in history
            ],
        }
    return out
