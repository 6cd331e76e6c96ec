"""What is run, in which order, and for how long at most."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """A part of the run with a process and a deadline of its own.

    Attributes:
        name: the field of the report that it fills.
        seconds: after which it is ended; what it had written by then stays.
        fatal: whether the stages after it make no sense without it.
        counted: whether the calls into the driver are counted while it runs.
        does: what is done, a name in `stages.ALL`; the stage's own if empty.
        kernels: what `KAIWA_CUDA` says while it runs. Stages of `own` are for CUDA cards only.
    """

    name: str
    seconds: float
    fatal: bool = False
    counted: bool = False
    does: str = ""
    kernels: str = "candle"

    @property
    def work(self) -> str:
        """What is done."""
        return self.does or self.name


def _own(does: str, seconds: float, counted: bool = False) -> Stage:
    """The stage again, with Kaiwa's own kernels."""
    return Stage(f"{does}_own", seconds, counted=counted, does=does, kernels="own")


#: For the whole run, however long its stages might take.
SECONDS = 480.0

#: In the order of what is wanted most, should time run out.
STAGES = (
    Stage("device", 20, fatal=True),
    Stage("tests", 70),
    _own("tests", 70),
    _own("lm", 90),
    _own("independence", 40),
    Stage("lm", 90),
    Stage("independence", 40),
    Stage("mimi", 30),
    _own("engine", 45),
    Stage("profile", 25, counted=True),
    _own("profile", 25, counted=True),
    Stage("peer", 70),
    Stage("engine", 45),
    _own("memory", 30),
    Stage("memory", 30),
)


def stage_called(name: str) -> Stage:
    """The stage of a name."""
    return next(stage for stage in STAGES if stage.name == name)


@dataclass(frozen=True)
class Sizes:
    """How much is measured; what is right for a GPU would take a processor hours.

    Attributes:
        model: size of the random language model.
        codec: size of the random codec.
        slots: batches that are timed.
        steps: timed steps of each batch.
        long_steps: steps over which memory and time are watched.
        engine_calls: numbers of calls held in real time.
        engine_seconds: for how long.
    """

    model: str
    codec: str
    slots: tuple[int, ...]
    steps: int
    long_steps: int
    engine_calls: tuple[int, ...]
    engine_seconds: float


SIZES = {
    "full": Sizes("7b", "full", (1, 8, 16, 32), 60, 200, (8, 32), 8.0),
    "tiny": Sizes("tiny", "small", (1, 8), 10, 40, (2,), 2.0),
}


def default_sizes(device: str) -> str:
    """Processors stand in for a GPU only in tests of the kit itself."""
    return "full" if device.startswith("cuda") else "tiny"
