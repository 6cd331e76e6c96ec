"""What must hold at every moment.

Each check belongs to one invariant, by whose name a violation is reported:

==========  =======================================================================================
slots       every taken slot belongs to one call, and every call has at most one slot
frames      no frame of a caller is stepped twice, in another's slot, or heard by another
tokens      no token lets two connections in, except where the policy for a lost Redis says so
limits      no key has more conversations or connections than it allows; likewise
ends        every connection ends once, and every call that got a slot ends for one known reason
remedies    whoever is refused or sent away is told why and what to do
memory      what is remembered is bounded by what is there, and gone when nobody calls any more
waiting     nobody waits for ever: callers are answered, and calls of those who left end
errors      nothing fails that has no name: no exception, no error in the log
==========  =======================================================================================
"""

from __future__ import annotations

import asyncio
import weakref
from collections import Counter, defaultdict, deque
from typing import TYPE_CHECKING, Any

from kaiwa import reasons
from kaiwa.server.refusal import Refused
from tools.simulation.channel import SimulatedChannel
from tools.simulation.engine import Stepped

if TYPE_CHECKING:
    from tools.simulation.instance import Instance
    from tools.simulation.world import World

INVARIANTS = (
    "slots",
    "frames",
    "tokens",
    "limits",
    "ends",
    "remedies",
    "memory",
    "waiting",
    "errors",
)

#: Refusals after which a token that a caller came with was not used.
_NOT_AUTHORIZED = ("bad_token", "unknown_key", "revoked", "no_key", "shared_state", "tokens")
#: Seconds that a server may take to answer a request, however its parts fail: each question to
#: Redis 2.3 s, reaching another server 2 s, a lost connection noticed in 2 s.
ANSWER_SECONDS = 20.0
#: Seconds from the moment at which a client is gone until its call is over or held: a client that
#: reads nothing is given up after 8 s, one that answers no ping after 22 s.
LEAVE_SECONDS = 35.0
#: Seconds for which a slot may belong to nobody: between two looks at the calls.
ORPHAN_SECONDS = 3.0
#: Seconds without Redis, or without running, after which leases of a server may lapse unrenewed.
LAPSE_SECONDS = 3.0


class Violation(AssertionError):  # noqa: N818
    """An invariant does not hold."""

    def __init__(self, invariant: str, text: str) -> None:
        # As they are, so that it can go from one process to another.
        super().__init__(invariant, text)
        self.invariant = invariant
        self.text = text

    def __str__(self) -> str:
        return f"{self.invariant}: {self.text}"


class Checks:
    """The checks of one world.

    Attributes:
        violation: the first one.
        wiped_at: when Redis last lost what it knew about leases, or its clock jumped.
        outcomes: what was checked, counted: for the report.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.violation: Violation | None = None
        self.wiped_at = -1e9
        self.outcomes: Counter[str] = Counter()
        #: Instances in which a connection was let in at the present moment.
        self._entered: dict[SimulatedChannel, None] = {}
        self._last_frame: dict[int, int] = {}
        #: By conversation: when it was counted, and whether Redis had a say in it.
        self._counted: weakref.WeakKeyDictionary[Any, tuple[float, bool]] = (
            weakref.WeakKeyDictionary()
        )
        self._connections: dict[str, deque[float]] = defaultdict(deque)
        self._clean_connections: dict[str, deque[float]] = defaultdict(deque)
        #: Uses of each token: server, when, whether Redis had a say in it.
        self._tokens: dict[str, list[tuple[Instance, float, bool]]] = {}
        self._orphans: dict[tuple[Instance, int], float] = {}

    def fail(self, invariant: str, text: str) -> None:
        """Notes a violation, which ends the world."""
        if self.violation is None:
            self.violation = Violation(invariant, f"{text} (at {self.world.loop.now:.3f} s)")

    # ---- frames ----------------------------------------------------------------------------

    def stepped(self, instance: Instance, rows: list[Stepped]) -> None:
        """An engine made a step with these rows."""
        self.outcomes["frames"] += len(rows)
        for slot, caller, number in rows:
            if caller == 0:
                continue  # silence
            if number <= self._last_frame.get(caller, 0):
                self.fail("frames", f"frame {number} of {caller} was stepped again in slot {slot}")
            self._last_frame[caller] = number

    def heard(self, caller: int, last: int, number: int, of: int) -> None:
        """A caller heard the answer to a frame."""
        if of and of != caller:
            self.fail("frames", f"caller {caller} hears what {of} said")
        if of and number <= last:
            self.fail("frames", f"caller {caller} hears frame {number} after {last}")

    # ---- letting in ------------------------------------------------------------------------

    def accepted(self, channel: SimulatedChannel) -> None:
        """A server lets a connection in; its call is complete at the end of the moment."""
        if not channel.instance.dead:
            self._entered[channel] = None

    def moment(self) -> None:
        """The end of a moment: everything has been done that there was to do."""
        if self._entered:
            entered, self._entered = self._entered, {}
            for channel in entered:
                # Browsers are accepted to be told of a refusal.
                if not (channel.instance.dead or channel.endings):
                    self._let_in(channel)

    def _let_in(self, channel: SimulatedChannel) -> None:
        self.outcomes["let in"] += 1
        instance, now = channel.instance, self.world.loop.now
        token = channel.query.get("token")
        if token is not None:
            self.token_used(token, channel)
        server = instance.server
        assert server is not None
        if "early" in channel.query:
            return
        answered = not any(at >= channel.began for at in instance.unanswered["limits"][-50:])
        for key_id, sessions in _conversations(instance).items():
            for session in sessions:
                self._counted.setdefault(session, (now, answered))
            self._check_concurrency(key_id, instance, len(sessions))
        if channel.caller_key and not channel.forwarded:
            self._check_rate(channel.caller_key, instance, answered)

    def _check_concurrency(self, key_id: str, instance: Instance, here: int) -> None:
        limit = self.world.key_plan(key_id).concurrency
        if limit is None:
            return
        if here > limit:
            self.fail("limits", f"{here} conversations of one key on {instance.name}; {limit}")
        clean = 0
        for other in self.world.instances():
            for session in _conversations(other).get(key_id, ()):
                at, answered = self._counted.get(session, (0.0, False))
                clean += answered and at > max(other.impaired_at, self.wiped_at)
        if clean > limit:
            self.fail("limits", f"{clean} conversations of one key over all servers; {limit}")

    def _check_rate(self, key_id: str, instance: Instance, answered: bool) -> None:
        limit = self.world.key_plan(key_id).per_minute
        if limit is None:
            return
        now = self.world.loop.now
        # Counted before the caller was let in, up to some seconds before.
        window = 60.0 - ANSWER_SECONDS / 2
        places = [(f"{key_id} {id(instance)}", self._connections)]
        # Without a shared state a server that is started again has forgotten them.
        shared = self.world.plan.shared
        if shared and answered and now - max(self.wiped_at, instance.impaired_at) > 60.0:
            places.append((key_id, self._clean_connections))
        for name, counts in places:
            recent = counts[name]
            recent.append(now)
            while recent[0] <= now - window:
                recent.popleft()
            if len(recent) > limit:
                self.fail("limits", f"{len(recent)} connections of one key a minute; {limit}")

    def token_used(self, token: str, channel: SimulatedChannel) -> None:
        """A server took a token for good."""
        self.outcomes["tokens used"] += 1
        instance = channel.instance
        unanswered = any(at >= channel.began for at in instance.unanswered["token"][-50:])
        shared = self.world.plan.shared
        uses = self._tokens.setdefault(token, [])
        for other, at, by_redis in uses:
            if other is instance:
                self.fail("tokens", f"one token was used twice on {instance.name}")
            elif shared and by_redis and not unanswered and at > self.wiped_at:
                self.fail("tokens", f"one token was used on {other.name} and {instance.name}")
        uses.append((instance, channel.began, not unanswered))

    def refused(self, refused: Refused, channel: SimulatedChannel) -> None:
        """A caller was refused."""
        self.outcomes[f"refused {refused.code}"] += 1
        token = channel.query.get("token")
        if token is not None and refused.code not in _NOT_AUTHORIZED:
            self.token_used(token, channel)
        if refused.status in (429, 503) and not (refused.retry_after or 0) > 0:
            self.fail("remedies", f"{refused!r} does not say when to try again")
        self._check_words(refused.code, refused.message)
        known = reasons.REASONS.get(refused.code)
        if known is not None and known.status not in (None, refused.status):
            self.fail("remedies", f"{refused!r} has not the status of its reason, {known.status}")

    def _check_words(self, code: str, message: str) -> None:
        """A refusal says what is wrong, and after a semicolon or in its last words what to do."""
        remedies = (";", "try again", "use ", "ask ", "send ", "get a ", "call again", "wait")
        if not any(word in message for word in remedies):
            self.fail("remedies", f"{code}: {message!r} does not say what to do")

    # ---- ends ------------------------------------------------------------------------------

    def told_end(self, code: int, reason: str, message: str) -> None:
        """A server closed a caller's connection."""
        self.outcomes[f"closed {reason}"] += 1
        known = reasons.REASONS.get(reason)
        if known is None:
            self.fail("ends", f"a call was closed for {reason!r}, which is no reason")
        elif code != known.close and not (reason == "drain" and code == 1012):
            self.fail("ends", f"{reason} was closed with {code} and not {known.close}")
        elif not known.silent:
            # Without a message the client has the sentence of the table; and where the protocol has
            # a fixed one (docs/spec/protocols.md 5.3).
            fixed = message == "server restarting"
            self._check_words(reason, known.sentence if fixed or not message else message)

    def end_counted(self, instance: Instance, reason: str, seconds: float) -> None:
        """A server counted the end of a call."""
        task = asyncio.current_task()
        for channel, leading in instance.channels.items():
            if leading is task and not instance.ends_held:
                channel.counted.append(reason)
        self.outcomes[f"ended {reason}"] += 1
        if reason not in reasons.REASONS:
            self.fail("ends", f"a call was counted as ended for {reason!r}, which is no reason")
        if seconds < -1e-6:
            self.fail("ends", f"a call lasted for {seconds} s")
        if len(instance.ends) > instance.starts and not instance.dead:
            self.fail("ends", f"{instance.name} ended more calls than it began")

    def call_over(
        self, instance: Instance, channel: SimulatedChannel, task: asyncio.Task[Any]
    ) -> None:
        """The task that led a call is over."""
        if not task.cancelled() and task.exception() is not None:
            self.fail("errors", f"leading a call raised {task.exception()!r}")
        if len(channel.endings) > 1:
            self.fail("ends", f"a connection was ended more than once: {channel.endings}")
        if not channel.endings and channel.gone_at is None:
            self.fail("ends", "a call is over and its connection was left open")
        if len(channel.counted) > 1:
            self.fail("ends", f"the end of a call was counted more than once: {channel.counted}")
        for how, _, told in channel.endings:
            if how == "closed" and channel.counted not in ([], [told]):
                self.fail("ends", f"a caller was told {told!r}, counted was {channel.counted}")

    def session_began(self, instance: Instance, session: int) -> None:
        """A server wrote into its audit log that a call begins."""
        if session in instance.sessions:
            self.fail("ends", f"session {session} of {instance.name} began twice")
        instance.sessions[session] = ""

    def session_ended(self, instance: Instance, session: int, reason: str) -> None:
        """The same, that it ends."""
        before = instance.sessions.get(session)
        if before is None:
            self.fail("ends", f"session {session} of {instance.name} ended and had not begun")
        elif before:
            self.fail("ends", f"session {session} ended for {before!r}, and again for {reason!r}")
        instance.sessions[session] = reason

    def stood_still(self, instance: Instance, seconds: float) -> None:
        """A server stood still, and goes on."""
        if seconds > LAPSE_SECONDS:
            instance.impaired_at = self.world.loop.now

    # ---- looks at everything ---------------------------------------------------------------

    def audit(self) -> None:
        """Looks at every server."""
        self.outcomes["audits"] += 1
        for instance in self.world.instances():
            if instance.server is not None and instance.server.state.engine is not None:
                self._audit_impaired(instance)
                if not instance.stopped:
                    self._audit_slots(instance)
                    self._audit_waiting(instance)
                    self._audit_memory(instance)

    def _audit_impaired(self, instance: Instance) -> None:
        now, shared = self.world.loop.now, instance.server.shared  # type: ignore[union-attr]
        bad = instance.stopped or (shared is not None and not shared.redis.up)
        if not bad:
            instance.fine_at = now
        elif now - instance.fine_at > LAPSE_SECONDS:
            instance.impaired_at = now

    def _audit_slots(self, instance: Instance) -> None:
        engine, server, now = instance.engine, instance.server, self.world.loop.now
        assert engine is not None
        assert server is not None
        infos = engine.sessions()
        slots = [info.slot for info in infos if info.slot is not None]
        if len(set(slots)) != len(slots):
            self.fail("slots", f"one slot has two sessions: {sorted(slots)}")
        if len(slots) > self.world.plan.slots:
            self.fail("slots", f"{len(slots)} sessions have slots")
        if engine.readiness.queue > self.world.plan.queue:
            self.fail("slots", f"{engine.readiness.queue} wait in the queue")
        self.world.call_seconds += len(slots) * self.world.audit_seconds
        owners = [call.session for call in server.live if call.session is not None]
        owners += [held.session for held in server.held]
        numbers = [session.id for session in owners]
        if len(set(numbers)) != len(numbers):
            self.fail("slots", "one session belongs to two calls")
        ids = {info.id for info in infos}
        for number in ids.difference(numbers):
            since = self._orphans.setdefault((instance, number), now)
            if now - since > self._patience(instance, ORPHAN_SECONDS):
                self.fail("slots", f"session {number} on {instance.name} belongs to no call")
        for place in [p for p in self._orphans if p[0] is instance and p[1] not in ids]:
            del self._orphans[place]

    def _patience(self, instance: Instance, seconds: float) -> float:
        """Seconds that something may take, with the time in which the server stood still."""
        return seconds + 6 * self.world.loop.slack + instance.stopped_seconds

    def _audit_waiting(self, instance: Instance) -> None:
        now = self.world.loop.now
        for channel in instance.channels:
            if channel.gone_at is not None:
                if now - channel.gone_at > self._patience(instance, LEAVE_SECONDS):
                    self.fail("waiting", f"the call of a client goes on that left {channel}")
            elif not (channel.accepted or channel.endings):
                if now - channel.began > self._patience(instance, ANSWER_SECONDS):
                    self.fail("waiting", f"a caller waits for an answer of {instance.name}")
            elif channel.waits_for_slot and not channel.endings:
                limit = 2 * ANSWER_SECONDS + self.world.plan.queue_seconds
                if now - channel.began > self._patience(instance, limit):
                    self.fail("waiting", f"a caller waits for a slot of {instance.name}")

    def _audit_memory(self, instance: Instance) -> None:
        server = instance.server
        assert server is not None
        connections = len(instance.channels)
        for what, count, most in (
            ("live calls", len(server.live), connections),
            ("held calls", len(server.held), self.world.plan.slots),
            ("tasks", len(instance.tasks), 60 + 8 * connections),
            ("timers", len(self.world.loop._scheduled), 5000 + 60 * self.world.callers_now()),
        ):
            if count > most:
                self.fail("memory", f"{count} {what} for {connections} connections")

    def at_rest(self) -> str:
        """What is left after the last caller went and everything had its time; empty: nothing.

        Gives the invariant and the finding.
        """
        for instance in self.world.instances():
            server, engine = instance.server, instance.engine
            if server is None or engine is None or server.state.engine is None:
                return "waiting a server has not started"
            left = {
                "slots sessions": len(engine.sessions()),
                "slots slots": engine.readiness.slots_used,
                "waiting connections": len(instance.channels),
                "memory live calls": len(server.live),
                "memory held calls": len(server.held),
                "limits conversations": sum(
                    server.access._limits.live(key.id) for key in self.world.keys_now()
                )
                + server.access._limits.live(""),
                "memory sessions that are woken": len(engine.dispatcher()._sessions),
                "memory resumable calls": len(server.held._resumable),
                "waiting tasks": max(0, len(instance.tasks) - instance.own_tasks),
            }
            if server.shared is not None:
                left["memory leases"] = len(server.shared._leases)
                left["memory calls"] = len(server.shared._calls)
            for what, count in left.items():
                if count:
                    return f"{what}: {count} left on {instance.name}"
            open_ = [session for session, reason in instance.sessions.items() if not reason]
            if open_ or len(instance.sessions) != instance.starts:
                return (
                    f"ends {instance.name} began {instance.starts} calls, wrote down "
                    f"{len(instance.sessions)}, and of these {len(open_)} without an end"
                )
            if instance.starts != len(instance.ends):
                return (
                    f"ends {instance.name} began {instance.starts} calls and counted "
                    f"{len(instance.ends)} ends"
                )
        store = self.world.redis.store
        for key in store.keys() if self.world.plan.shared else ():
            if key.startswith((b"kaiwa:live:", b"kaiwa:call:")):
                return f"memory {key!r} is left in Redis"
        return ""


def _conversations(instance: Instance) -> dict[str, list[Any]]:
    """Sessions that have not ended, by key."""
    found: dict[str, list[Any]] = {}
    server = instance.server
    if server is None:
        return found
    for call in (*server.live, *server.held):
        session, caller = call.session, call.caller
        if session is not None and caller is not None and caller.key_id and not session.ended:
            found.setdefault(caller.key_id, []).append(session)
    return found
