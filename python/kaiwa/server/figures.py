"""What a server tells about itself as JSON (docs/server.md)."""

from __future__ import annotations

import time
from typing import Any

from kaiwa.server import connection, memory
from kaiwa.server.state import ServerState

_STARTED = int(time.time())


def _version() -> str:
    from kaiwa import __version__

    return __version__


def _name(state: ServerState) -> str:
    from kaiwa import loading

    if state.engine is not None:
        return state.engine.name
    return loading.public_name(state.settings.model or "")


def readiness(state: ServerState) -> dict[str, Any]:
    """`/readyz`."""
    engine = state.engine.readiness if state.engine is not None else None
    return {
        "state": state.readiness,
        "slots_total": engine.slots_total if engine else state.settings.slots,
        "slots_used": engine.slots_used if engine else 0,
        "step_p95_seconds": round(engine.step_p95_seconds, 6) if engine else 0.0,
    }


def info(state: ServerState) -> dict[str, Any]:
    """`/v1/info`."""
    from kaiwa import loading

    engine, settings = state.engine, state.settings
    usual = engine.default_sampling if engine is not None else None
    fallback = {"temp": 0.8, "temp_text": 0.7, "top_k": 250, "top_k_text": 25}
    sampling = {}
    for name, value in fallback.items():
        own = getattr(settings, name)
        sampling[name] = own if own is not None else getattr(usual, name) if usual else value
    synthetic = engine.synthetic if engine is not None else loading.is_synthetic(settings.model)
    return {
        "model": _name(state),
        "synthetic": synthetic,
        "auth": "none" if state.access.is_open else "key",
        "version": _version(),
        "sampling": sampling,
        "max_seconds": settings.call_seconds,
        "slots": settings.slots,
        "state": state.readiness,
    }


def models(state: ServerState) -> dict[str, Any]:
    """`/v1/models`."""
    model = {"id": _name(state), "object": "model", "created": _STARTED, "owned_by": "kaiwa"}
    return {"object": "list", "data": [model]}


def sessions(state: ServerState) -> dict[str, Any]:
    """`/v1/sessions`."""
    return {"object": "list", "sessions": connection.listing(state)}


def stats(state: ServerState) -> dict[str, Any]:
    """`/v1/stats`."""
    settings, engine = state.settings, state.engine
    out: dict[str, Any] = {
        "state": state.readiness,
        "model": _name(state),
        "version": _version(),
        "uptime_seconds": round(state.clock() - state.began, 1),
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
        "rejected": rejected(state),
        "memory": {"rss": memory.resident(), "weights": 0, "state": 0},
        "sessions": connection.listing(state),
    }
    if engine is None:
        return out
    ready, counts = engine.readiness, engine.stats()
    history = counts["history"]
    took = sorted(seconds for _, _, seconds in history)
    # What the chart shows is on the server's clock.
    shift = state.clock() - state.began - ready.now
    out.update(
        slots_total=ready.slots_total,
        slots_used=ready.slots_used,
        queue=ready.queue,
        frames=counts["frames_out"],
        deadline_missed=counts["deadline_missed"],
        dropped_input=counts["dropped_input"],
        dropped_output=counts["dropped_output"],
    )
    out["memory"]["state"] = ready.state_bytes
    if engine.moshi is not None:
        out["memory"]["weights"] = engine.moshi.weight_bytes
    if took:
        at = {p: took[min(len(took) - 1, int(len(took) * p))] for p in (0.5, 0.95, 0.99)}
        out["step"] = {
            "count": sum(counts["step"][1]),
            "batch": history[-1][1],
            "last": round(history[-1][2], 6),
            "p50": round(at[0.5], 6),
            "p95": round(at[0.95], 6),
            "p99": round(at[0.99], 6),
            "history": [[round(t + shift, 3), n, round(s, 6)] for t, n, s in history],
        }
    return out


def rejected(state: ServerState) -> dict[str, int]:
    """Callers sent away, by reason."""
    counts: dict[str, int] = {}
    for family in state.metrics.rejected.collect():
        for sample in family.samples:
            if sample.name.endswith("_total"):
                reason = sample.labels["reason"]
                counts[reason] = counts.get(reason, 0) + int(sample.value)
    return counts


def build_info() -> dict[str, str]:
    """`/api/build_info`, in the form of Kyutai's server."""
    from kaiwa import _native
    from kaiwa.server.protocols import kyutai

    about = kyutai.about_session(
        model="",
        sampling={"temp": 0, "temp_text": 0, "top_k": 0, "top_k_text": 0},
        version=_version(),
        extra={},
    )
    return {**about["build_info"], "git_hash": _native.build_info()["revision"]}


def modules_info(state: ServerState) -> list[dict[str, str]]:
    """`/api/modules_info`, in the form of Kyutai's server: every value is a string."""
    ready = readiness(state)
    return [
        {
            "type": "lm",
            "path": "/api/chat",
            "used_slots": str(ready["slots_used"]),
            "total_slots": str(ready["slots_total"]),
            "lm": _name(state),
            "audio_tokenizer": "mimi",
        }
    ]
