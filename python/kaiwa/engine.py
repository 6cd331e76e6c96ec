"""The engine: many conversations over one model, for programs that embed Kaiwa.

::

    with kaiwa.Engine("synth:tiny") as engine, engine.session(seed=1) as session:
        session.send(pcm)               # float32, 24 kHz, any length
        session.finish()
        for event in session: ...

    async with engine.session(seed=1) as session:
        await session.send(pcm)
        async for event in session: ...
"""

from __future__ import annotations

import asyncio
import secrets
import weakref
from os import PathLike
from typing import Any, Literal

from kaiwa import _arrays, _native, loading
from kaiwa.errors import InputError
from kaiwa.mimi import Mimi
from kaiwa.moshi import Moshi, Sampling
from kaiwa.session import (
    AsyncSession,
    BlockingSession,
    Dispatcher,
    Monologue,
    Reader,
    Transcription,
)
from kaiwa.text import Tokenizer
from kaiwa.words import Words, delay_steps

#: Whether an engine takes callers.
Readiness = _native.Readiness

#: What a model does: it converses, or it writes down what it hears.
Task = Literal["duplex", "transcription"]


class Engine:
    """Conversations over one model, stepped together on a thread of their own: whenever a step
    ends, every session with a complete frame (80 ms) goes into the next. Safe to use from several
    threads and event loops.

    Args:
        model: A source as for :meth:`Moshi.from_pretrained`, ``"demo"`` (the small one that
            comes with Kaiwa), ``"synth:tiny"`` (random weights), or a :class:`Moshi`. A speech to
            text model transcribes: its sessions give :class:`StepEvent`, :class:`WordEvent` and
            :class:`WordEndEvent`, and no audio.
        mimi: The codec: a source, or a :class:`Mimi`; by default the one beside the model.
        tokenizer: A file, or a :class:`Tokenizer`; by default the one beside the model.
        slots: Conversations at once.
        queue: Callers that may wait for a slot.
        step_budget: Seconds; a caller is let in only if the 95th percentile of a step with it is
            predicted to stay below this. The first caller always is. ``None`` is no limit.
        warm_up: Run and measure the model before the first caller.
        opus_complexity: Effort of the Opus encoder, 0 to 10.
        opus_threads: Threads for Opus; one a core if ``None``.
        device, dtype, quantize, lora, kv_dtype, config, revision, cache_dir, progress: As for
            :meth:`Moshi.from_pretrained`, if ``model`` is a source.
        mimi_device: Device of the codec, if ``model`` is a source; that of the model if ``None``.

    Raises:
        InputError: The parts do not fit together, or an argument is out of range.
        CheckpointError, DownloadError, DeviceError: As for :meth:`Moshi.from_pretrained`.
    """

    def __init__(
        self,
        model: str | PathLike[str] | Moshi,
        *,
        mimi: str | PathLike[str] | Mimi | None = None,
        tokenizer: str | PathLike[str] | Tokenizer | None = None,
        slots: int = 8,
        queue: int = 8,
        step_budget: float | None = 0.06,
        warm_up: bool = True,
        opus_complexity: int = 5,
        opus_threads: int | None = None,
        **options: Any,
    ) -> None:
        parts = _parts(model, mimi, tokenizer, options)
        # Before the engine starts: to warm up takes a while.
        if parts.tokenizer is not None and parts.tokenizer.pieces != parts.moshi.text_card:
            raise InputError(
                f"the tokenizer has {parts.tokenizer.pieces} pieces, the model's text vocabulary "
                f"is {parts.moshi.text_card}; use the tokenizer that belongs to the model"
            )
        self._set(parts.name, parts.synthetic, parts.tokenizer, parts.moshi.default_sampling)
        self.moshi: Moshi | None = parts.moshi
        if self.task == "transcription" and parts.tokenizer is None:
            raise InputError(
                "there is no tokenizer beside the model, without which there are no words; name "
                "one with tokenizer= (--tokenizer)"
            )
        self._native = _native.Engine.start(
            parts.moshi._native,
            parts.mimi._native,
            _arrays.positive("slots", slots),
            _natural("queue", queue),
            _seconds("step_budget", step_budget),
            _effort(opus_complexity),
            bool(warm_up),
            opus_threads,
        )

    @classmethod
    def echo(
        cls,
        *,
        slots: int = 8,
        seconds: float = 0.0,
        seconds_per_row: float = 0.0,
        queue: int = 8,
        step_budget: float | None = 0.06,
        opus_complexity: int = 5,
        opus_threads: int | None = None,
        lost_after: int | None = None,
    ) -> Engine:
        """An engine without a model, which says back what it hears: for measuring and testing
        what is around a model.

        A step takes ``seconds``, and ``seconds_per_row`` for each session in it: the engine sleeps
        so long. After ``lost_after`` steps they fail as on a GPU that is lost, which ends the
        engine. The other arguments are those of an engine.
        """
        self = cls.__new__(cls)
        self._set("echo", True, None, Sampling())
        self.moshi = None
        self._native = _native.Engine.start_echo(
            _arrays.positive("slots", slots),
            float(seconds),
            float(seconds_per_row),
            _natural("queue", queue),
            _seconds("step_budget", step_budget),
            _effort(opus_complexity),
            opus_threads,
            None if lost_after is None else _natural("lost_after", lost_after),
        )
        return self

    def _set(
        self, name: str, synthetic: bool, tokenizer: Tokenizer | None, sampling: Sampling
    ) -> None:
        self.name = name
        self.synthetic = synthetic
        self.tokenizer = tokenizer
        self.default_sampling = sampling
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Dispatcher] = (
            weakref.WeakKeyDictionary()
        )
        self._held: dict[str, AsyncSession] = {}

    # ---- sessions --------------------------------------------------------------------------

    def session(
        self,
        *,
        seed: int | None = None,
        temp: float | None = None,
        temp_text: float | None = None,
        top_k: int | None = None,
        top_k_text: int | None = None,
        pace: str = "none",
        clock: str = "input",
        transport: str = "pcm",
        max_seconds: float | None = None,
        max_frames: int | None = None,
        idle_seconds: float | None = None,
        wait: float = 30.0,
    ) -> SessionRequest:
        """A conversation, for ``with`` or ``async with``, which wait until it has a slot.

        Args:
            seed: Same seed, same audio: same answer, whatever else is going on. ``None`` draws one.
            temp: Temperature of the codebooks; ``None`` here and below is the model's own.
            temp_text: Temperature of the text.
            top_k: Candidates of a codebook's draw; 0 is all.
            top_k_text: Candidates of the text's draw.
            pace: ``"none"``: sending waits until there is room, nothing is lost (files);
                ``"realtime"``: sending never waits, what is too much is dropped (calls).
            clock: ``"server"`` puts silence in when nothing has come for 200 ms; ``"input"`` does
                not.
            transport: ``"pcm"`` (float32 arrays), or ``"opus"`` (bytes of Ogg pages).
            max_seconds: Longest conversation; ``None`` is no limit.
            max_frames: Longest conversation in frames of input.
            idle_seconds: End after so long without input; ``None`` is never.
            wait: Seconds to wait for a slot; 0 is not at all.

        Raises (on entering):
            CapacityError: No slot within ``wait`` seconds.
            InputError: An argument is out of range.
            ClosedError: The engine is closed.
        """
        defaults = self.default_sampling
        settings = (
            float(defaults.temp if temp is None else temp),
            float(defaults.temp_text if temp_text is None else temp_text),
            _natural("top_k", defaults.top_k if top_k is None else top_k),
            _natural("top_k_text", defaults.top_k_text if top_k_text is None else top_k_text),
        )
        if clock not in ("input", "server"):
            raise InputError(f'clock is {clock!r}; use "input" or "server"')
        chosen = secrets.randbits(63) if seed is None else _natural("seed", seed)
        if chosen >= 1 << 64:
            raise InputError(f"seed is {chosen}; use less than 2**64")
        options = (
            chosen,
            settings,
            transport,
            pace,
            clock == "server",
            None if max_seconds is None else _seconds("max_seconds", max_seconds),
            None if max_frames is None else _natural("max_frames", max_frames),
            None if idle_seconds is None else _seconds("idle_seconds", idle_seconds),
            _seconds("wait", wait),
        )
        return SessionRequest(self, options, chosen)

    @property
    def task(self) -> Task:
        """What the model does."""
        transcribes = self.moshi is not None and self.moshi.dep_q == 0
        return "transcription" if transcribes else "duplex"

    @property
    def delay_steps(self) -> int:
        """Steps of 80 ms from a sound to the text of it, of a model that transcribes; else 0."""
        return delay_steps(self._recording("audio_delay_seconds"))

    @property
    def prefix_seconds(self) -> float:
        """Seconds of silence that a model which transcribes wants before a recording; else 0."""
        return self._recording("audio_silence_prefix_seconds")

    def _recording(self, entry: str) -> float:
        """What the configuration of a model that transcribes says of recordings."""
        if self.task == "duplex" or self.moshi is None:
            return 0.0
        return float(self.moshi.config["stt_config"][entry])

    def _reader(self) -> Reader:
        """What makes events of the text of a new session."""
        if self.task == "duplex" or self.moshi is None or self.tokenizer is None:
            return Monologue(self.tokenizer)
        # The engine gives the first frame to the model twice.
        words = Words(self.tokenizer, self._recording("audio_delay_seconds"), steps=1)
        return Transcription(words, tells_pauses=self.moshi.extra_heads > 0)

    def hold(self, session: AsyncSession, seconds: float) -> str | None:
        """Keeps the slot of a session whose connection was lost; gives a token for :meth:`resume`,
        or ``None`` if the session is over."""
        for token in [t for t, s in self._held.items() if s.ended]:
            del self._held[token]
        if not session.hold(seconds):
            return None
        self._held[session.resume_token] = session
        return session.resume_token

    def resume(self, token: str) -> AsyncSession | None:
        """Takes a held session up again where it stopped, in the running event loop; ``None`` if
        the token is not (or no longer) that of a held session."""
        session = self._held.pop(token, None)
        if session is None or not session.take_up(self.dispatcher()):
            return None
        return session

    def dispatcher(self) -> Dispatcher:
        """What wakes the sessions of the running event loop."""
        loop = asyncio.get_running_loop()
        found = self._loops.get(loop)
        if found is None:
            found = self._loops[loop] = Dispatcher(loop)
        return found

    # ---- for operators ---------------------------------------------------------------------

    @property
    def readiness(self) -> Readiness:
        """Whether callers are taken; cheap."""
        return self._native.readiness()

    def stats(self) -> _native.Stats:
        """What was counted; its fields can also be read by name, as of a mapping."""
        return self._native.stats()

    def metrics(self) -> list[_native.MetricFamily]:
        """Every metric of docs/metrics.md that is the engine's, with its values now."""
        return self._native.metrics()

    def sessions(self) -> list[_native.SessionInfo]:
        """What is known about every session that has not ended."""
        return self._native.sessions()

    def end_session(self, session_id: int, message: str = "") -> bool:
        """Ends a session from outside; ``False`` if there is none of this number."""
        return self._native.end_session(session_id, message)

    # ---- end -------------------------------------------------------------------------------

    def drain(self) -> None:
        """Takes nobody new; sessions go on."""
        self._native.drain()

    def close(self) -> None:
        """Ends every session and the engine's thread; waits for the step that is running."""
        self._held.clear()
        self._native.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Engine:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.close)


class SessionRequest:
    """A conversation that is about to begin: enter it with ``with`` or ``async with``."""

    def __init__(self, engine: Engine, options: tuple[Any, ...], seed: int) -> None:
        self._engine = engine
        self._options = options
        self.seed = seed
        self._session: BlockingSession | AsyncSession | None = None

    def open(self) -> AsyncSession:
        """Asks for a slot and does not wait: the first events say what came of it."""
        dispatcher = self._engine.dispatcher()
        options: tuple[Any, ...] = (*self._options, dispatcher.notifier)
        native = self._engine._native.open(*options)
        return AsyncSession(native, self._engine._reader(), self.seed, dispatcher)

    def __enter__(self) -> BlockingSession:
        native = self._engine._native.open(*self._options)
        session = BlockingSession(native, self._engine._reader(), self.seed)
        self._session = session
        try:
            session.wait_active()
        except BaseException:
            # Interrupted while it waited: nobody will leave a block that was never entered.
            session.close()
            raise
        return session

    def __exit__(self, *_: object) -> None:
        if isinstance(self._session, BlockingSession):
            self._session.close()

    async def __aenter__(self) -> AsyncSession:
        session = self.open()
        self._session = session
        try:
            await session.wait_active()
        except BaseException:
            session.close()
            raise
        return session

    async def __aexit__(self, *_: object) -> None:
        if isinstance(self._session, AsyncSession):
            self._session.close()


def _parts(
    model: str | PathLike[str] | Moshi,
    mimi: str | PathLike[str] | Mimi | None,
    tokenizer: str | PathLike[str] | Tokenizer | None,
    options: dict[str, Any],
) -> loading.Parts:
    """Loads what is not loaded yet."""
    if isinstance(model, Moshi):
        if options:
            raise InputError(f"{', '.join(options)}: only for a model that is still to be loaded")
        if not isinstance(mimi, Mimi):
            raise InputError(
                "a loaded model needs a loaded codec: pass mimi=Mimi.from_pretrained()"
            )
        if tokenizer is not None and not isinstance(tokenizer, Tokenizer):
            tokenizer = Tokenizer.load(tokenizer, expected_pieces=model.text_card)
        return loading.Parts(model, mimi, tokenizer, "moshi", synthetic=False)
    if isinstance(mimi, Mimi) or isinstance(tokenizer, Tokenizer):
        raise InputError("pass sources for all three parts, or loaded ones for all three")
    return loading.load(model, mimi=mimi, tokenizer=tokenizer, **options)


def _natural(name: str, value: object) -> int:
    """A whole number of at least 0."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InputError(f"{name} is {value!r}; use a whole number of at least 0")
    return value


def _effort(value: object) -> int:
    """A complexity of Opus."""
    number = _natural("opus_complexity", value)
    if number > 10:
        raise InputError(f"opus_complexity is {number}; use 0 to 10")
    return number


def _seconds(name: str, value: float | None) -> float:
    """Seconds; ``None`` is no limit."""
    if value is None:
        return float("inf")
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise InputError(f"{name} is {value!r}; use seconds, at least 0")
    return float(value)
