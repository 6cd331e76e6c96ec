"""The JSON of the HTTP routes, as models: what is checked before it is sent, and what
`/openapi.json` says."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class Health(BaseModel):
    """Whether the process works."""

    state: str = Field(description="`ok`, `failed`, `stuck`, or `starting` while the model loads")


class Readiness(BaseModel):
    """Whether one caller more would be taken."""

    state: str = Field(
        description="`ready`, `starting`, `full`, `draining`, `overloaded`, `failed` or `stuck`"
    )
    slots_total: int = Field(description="conversations at once")
    slots_used: int
    step_p95_seconds: float = Field(
        description="95th percentile of a step of the model; a frame lasts 0.08"
    )


class Sampling(BaseModel):
    """How tokens are drawn unless a call asks otherwise."""

    temp: float = Field(description="temperature of the audio")
    temp_text: float = Field(description="temperature of the text")
    top_k: int = Field(description="candidates of a draw of audio; 0 is all")
    top_k_text: int = Field(description="candidates of a draw of text; 0 is all")


class Info(BaseModel):
    """What a page needs to know before a call."""

    model: str
    synthetic: bool = Field(description="whether the weights are random")
    auth: Literal["none", "key"] = Field(description="whether calls need a key")
    version: str
    sampling: Sampling
    max_seconds: float | None = Field(description="longest call; null: no limit")
    slots: int
    state: str = Field(description="as of `/readyz`")


class Token(BaseModel):
    """A token for one connection; empty if the server asks for no keys."""

    token: str
    expires_at: int = Field(description="seconds since 1970")


class Model(BaseModel):
    """A model that is served."""

    id: str
    object: Literal["model"]
    created: int = Field(description="when the server began, in seconds since 1970")
    owned_by: str


class ModelList(BaseModel):
    """The models that are served."""

    object: Literal["list"]
    data: list[Model]


class Session(BaseModel):
    """A live session."""

    id: str
    protocol: str = Field(description="the wire protocol")
    key_name: str = Field(description="name of the caller's key; may be empty")
    state: str = Field(description="`queued`, `active`, `paused` or `held`")
    seconds: float = Field(description="since it was asked for")
    frames: int = Field(description="frames of 80 ms that were answered")
    backlog: int = Field(description="frames that wait to be answered")
    slot: int | None


class SessionList(BaseModel):
    """All live sessions, those that are held for a lost client included."""

    object: Literal["list"]
    sessions: list[Session]


class Steps(BaseModel):
    """The steps of the model: times in seconds."""

    count: int
    batch: int = Field(description="sessions in the last step")
    last: float
    p50: float
    p95: float
    p99: float
    history: list[tuple[float, int, float]] = Field(
        description="the last steps: seconds since the server began, sessions, seconds taken"
    )


class Memory(BaseModel):
    """Bytes of memory."""

    rss: int | None = Field(description="of the process; null where the system does not tell")
    weights: int
    state: int = Field(description="running state of all slots")


class Stats(BaseModel):
    """What the operator's page shows."""

    state: str
    model: str
    version: str
    uptime_seconds: float
    slots_total: int
    slots_used: int
    queue: int = Field(description="callers waiting for a slot")
    budget_seconds: float = Field(description="a caller is let in if a step stays below this")
    step: Steps
    frames: int
    deadline_missed: int = Field(description="steps of more than 0.08 s")
    dropped_input: int
    dropped_output: int
    rejected: dict[str, int] = Field(description="callers sent away, by reason")
    memory: Memory
    sessions: list[Session]


class ErrorFacts(BaseModel):
    """Why a request was refused."""

    type: str
    code: str = Field(description="a word for programs")
    message: str = Field(description="a sentence for people: what was wrong and what to do")
    param: None


class Error(BaseModel):
    """A refusal."""

    error: ErrorFacts
