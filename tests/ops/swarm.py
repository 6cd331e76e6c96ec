"""A stack of swarm-config.yml on the Swarm of this machine, and callers that watch for gaps."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from secrets import token_urlsafe
from typing import Any

import numpy as np
from tests.ops.docker import ROOT, docker, run, tried
from tests.server.live import At, wait_until
from tests.server.wire import AUDIO, TEXT, call
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from kaiwa.server import key_edits

STACK = "kaiwatest"
PORT = 18081
SIZES = ROOT / "tests/ops/swarm-test.yml"
#: Percent of waiting from which on a machine is too busy to be judged by.
_BUSY = 70
#: What a call may say when nothing is wrong, as samples of 16 bits.
FRAME = np.full(1920, 1000, "<i2").tobytes()


@dataclass
class Stack:
    """A stack that runs."""

    variables: dict[str, str]
    key: str
    folder: Path
    public: At = field(default_factory=lambda: At(PORT))
    #: Of its connections, such as `ssl`.
    options: dict[str, Any] = field(default_factory=dict)

    def deploy(self, sizes: Path = SIZES, **changed: str) -> None:
        """Brings it to what the files and variables say; returns at once."""
        self.variables.update(changed)
        files = [ROOT / "swarm-config.yml", sizes]
        words = [word for file in files for word in ("-c", str(file))]
        done = subprocess.run(
            ["docker", "stack", "deploy", "--resolve-image", "never", *words, STACK],
            env={**os.environ, **self.variables},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def containers(self, service: str = "kaiwa") -> list[str]:
        """Containers of a service that run."""
        label = f"label=com.docker.swarm.service.name={STACK}_{service}"
        return docker("ps", "-q", "--filter", label).split()

    def inside(self, container: str, path: str) -> bytes:
        """An HTTP answer of a replica, asked from within."""
        code = (
            "import sys,urllib.request as u;"
            f"sys.stdout.buffer.write(u.urlopen('http://127.0.0.1:8998{path}').read())"
        )
        return docker("exec", container, "/opt/kaiwa/bin/python", "-c", code).encode()

    def calls(self) -> dict[str, int]:
        """Conversations of each replica."""
        found = {}
        for container in self.containers():
            with contextlib.suppress(AssertionError):
                ready = docker(
                    *("exec", container, "/opt/kaiwa/bin/python", "-c"),
                    "import json,urllib.request as u,urllib.error as e\n"
                    "try: b=u.urlopen('http://127.0.0.1:8998/readyz').read()\n"
                    "except e.HTTPError as x: b=x.read()\n"
                    "print(json.loads(b)['slots_used'])",
                )
                found[container] = int(ready)
        return found

    def healthy(self) -> int:
        """Replicas that are healthy."""
        return sum(
            docker("inspect", "-f", "{{.State.Health.Status}}", c) == "healthy"
            for c in self.containers()
        )

    def settled(self) -> bool:
        """Whether nothing is going on: three replicas, no update, no call."""
        over = self.update_state() in ("", "completed", "rollback_completed")
        whole = over and self.healthy() == 3 and self.balanced() == 3
        return whole and not any(self.calls().values())

    def update_state(self) -> str:
        """What Swarm says of the last update."""
        facts = json.loads(docker("service", "inspect", f"{STACK}_kaiwa"))[0]
        return str(facts.get("UpdateStatus", {}).get("State", ""))

    def prometheus(self, query: str, through: str | None = None) -> list[Any]:
        """Result of a query, asked from within a replica (any, if none is named)."""
        code = (
            "import sys,urllib.request as u,urllib.parse as p;"
            "print(u.urlopen('http://prometheus:9090/api/v1/query?'+"
            "p.urlencode({'query': sys.argv[1]})).read().decode())"
        )
        asker = through or self.containers()[0]
        said = docker("exec", asker, "/opt/kaiwa/bin/python", "-c", code, query)
        found: list[Any] = json.loads(said)["data"]["result"]
        return found

    def alarms(self, through: str | None = None) -> set[str] | None:
        """Names of the alerts that fire, but for the one that always does; None if Prometheus
        could not be asked."""
        with contextlib.suppress(AssertionError):
            found = self.prometheus('ALERTS{alertstate="firing"}', through)
            return {str(row["metric"]["alertname"]) for row in found} - {"KaiwaWatchdog"}
        return None

    def fires(self, alarm: str, through: str | None = None) -> bool:
        """Whether an alert fires, for sure."""
        return alarm in (self.alarms(through) or ())

    def rests(self, alarm: str, through: str | None = None) -> bool:
        """Whether an alert does not fire, for sure."""
        found = self.alarms(through)
        return found is not None and alarm not in found

    def link(self, container: str, state: str, network: str = "inside") -> None:
        """Takes a container's interface to a network up or down, as a cut cable does it."""
        facts = json.loads(docker("inspect", container))[0]
        address = facts["NetworkSettings"]["Networks"][f"{STACK}_{network}"]["IPAddress"]
        pid = str(facts["State"]["Pid"])
        within = ["nsenter", "-t", pid, "-n", "ip"]
        rows = json.loads(run(*within, "-j", "address"))
        name = next(
            row["ifname"] for row in rows for one in row["addr_info"] if one.get("local") == address
        )
        run(*within, "link", "set", name, state)

    def balanced(self) -> int:
        """Replicas that every balancer gives calls to."""
        query = 'min by (server) (haproxy_server_status{proxy="calls", state="UP"}) == 1'
        with contextlib.suppress(AssertionError):
            return len(self.prometheus(query))
        return 0

    def answers(self) -> bool:
        """Whether a caller is served."""
        with contextlib.suppress(OSError):
            return self.public.ask("/v1/models", key=self.key).status == 200
        return False


@contextlib.contextmanager
def before_others() -> Iterator[None]:
    """Lets the stack and its callers go before other programs of a busy machine, where that can be
    had: a gap shall be Kaiwa's, and not that of a machine with too much to do."""
    # All containers together have as much as one process outside, where groups are of the old kind.
    group, before = Path("/sys/fs/cgroup/cpu/docker/cpu.shares"), ""
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, nice - 10)
    with contextlib.suppress(OSError):
        before = group.read_text()
        group.write_text("65536")
    try:
        yield
    finally:
        if before:
            group.write_text(before)
        os.setpriority(os.PRIO_PROCESS, 0, nice)


@contextlib.contextmanager
def stack(kaiwa: str, standins: str, folder: Path, **more: str) -> Iterator[Stack]:
    """A stack for a test, on a Swarm that is made for it if there is none."""
    keys = folder / "keys.json"
    _, key = key_edits.add(keys, "test", time.time())
    own = docker("info", "-f", "{{.Swarm.LocalNodeState}}") != "active"
    if own:
        docker("swarm", "init", "--advertise-addr", "127.0.0.1")
    names = {
        f"{STACK}_keys": keys.read_text(),
        f"{STACK}_token": token_urlsafe(48),
        f"{STACK}_redis": token_urlsafe(48),
        f"{STACK}_alertmanager": (ROOT / "deploy/alertmanager/alertmanager.yml").read_text(),
    }
    try:
        for name, value in names.items():
            tried("secret", "rm", name)
            docker("secret", "create", name, "-", stdin=value)
        made = Stack(
            {
                "STACK": STACK,
                "KAIWA_IMAGE": kaiwa,
                "EDGE_IMAGE": standins,
                "HAPROXY_IMAGE": standins,
                "REDIS_IMAGE": standins,
                "ALERTMANAGER_IMAGE": standins,
                "KAIWA_ALERTMANAGER_SECRET": f"{STACK}_alertmanager",
                "PROMETHEUS_IMAGE": standins,
                "KAIWA_MODEL": "synth:echo",
                "KAIWA_SLOTS": "4",
                "KAIWA_REPLICAS": "3",
                "KAIWA_MEMORY": "512M",
                "KAIWA_CPUS": "2",
                "KAIWA_HTTP_PORT": str(PORT),
                "KAIWA_MAX_SECONDS": "120",
                "KAIWA_GRACE": "60s",
                "KAIWA_KEYS_SECRET": f"{STACK}_keys",
                "KAIWA_TOKEN_SECRET": f"{STACK}_token",
                "KAIWA_TOKEN_SECRET_NEXT": f"{STACK}_token",
                "KAIWA_TOKEN_SECRET_PREVIOUS": f"{STACK}_token",
                "KAIWA_REDIS_SECRET": f"{STACK}_redis",
                "KAIWA_REDIS_SECRET_NEXT": f"{STACK}_redis",
                "KAIWA_REDIS_SECRET_PREVIOUS": f"{STACK}_redis",
                **more,
            },
            key,
            folder,
        )
        made.deploy()
        wait_until(lambda: made.healthy() == 3, "three replicas", 180)
        wait_until(made.answers, "the balancer", 60)
        wait_until(lambda: made.balanced() == 3, "the balancer knows all", 60)
        yield made
    finally:
        with contextlib.ExitStack() as last:
            if own:
                last.callback(leave)
            take_down(STACK, names)


def leave() -> None:
    """Ends the Swarm that was made for a test."""
    docker("swarm", "leave", "--force")
    # Made with the Swarm, and not taken away with it.
    tried("network", "rm", "docker_gwbridge")


def take_down(stack: str, secrets: Iterable[str]) -> None:
    """Removes a stack and all that belongs to it."""
    tried("stack", "rm", stack)
    label = f"label=com.docker.stack.namespace={stack}"
    wait_until(lambda: not docker("ps", "-aq", "--filter", label), "all gone", 120)
    for name in secrets:
        tried("secret", "rm", name)
    wait_until(lambda: not docker("network", "ls", "-q", "--filter", label), "networks gone", 60)
    for volume in docker("volume", "ls", "-q", "--filter", label).split():
        tried("volume", "rm", volume)


@dataclass
class Caller:
    """A call through the balancer, frame by frame in real time.

    Attributes:
        stack: whom it calls.
        speech: what it says, frame by frame, and then nothing; without any, `FRAME` all the time.
        answered: when each answer came.
        heard: the answers, as samples of 16 bits.
        words: the text beside them, piece by piece.
        resume: of a lost call, to take it up again.
        about: what it was told at the begin.
        asleep: when this process did not run, because the machine has other things to do: what it
            hears late then was not said late.
    """

    stack: Stack
    speech: list[bytes] = field(default_factory=list)
    resume: str = ""
    sent: int = 0
    answered: list[float] = field(default_factory=list)
    heard: list[bytes] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)
    asleep: list[tuple[float, float]] = field(default_factory=list)
    closed: tuple[int, str] | None = None
    refused: str = ""
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    closed_at: float = 0.0

    async def run(self) -> None:
        """Talks until told to stop, or until it is cut off."""
        watch = asyncio.create_task(self._watch())
        try:
            await self._run()
        finally:
            watch.cancel()

    async def _watch(self) -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.01)
            now = time.monotonic()
            if now - last > 0.015:
                self.asleep.append((last + 0.01, now))
            last = now

    async def _run(self) -> None:
        headers = {"Authorization": f"Bearer {self.stack.key}"}
        asked = {
            "format": "pcm",
            "resumable": 1,
            **({"resume": self.resume} if self.resume else {}),
        }
        url = self.stack.public.url(**asked)
        try:
            async with call(
                url, begin=False, additional_headers=headers, **self.stack.options
            ) as made:
                self.about = await made.begin()
                self.begun.set()
                listener = asyncio.create_task(self._listen(made))
                due = time.monotonic()
                while not self.stop.is_set() and not listener.done():
                    await made.say(self._frame(self.sent))
                    self.sent += 1
                    due += 0.08
                    await asyncio.sleep(max(0.0, due - time.monotonic()))
                await asyncio.sleep(0.3)
                listener.cancel()
                await asyncio.gather(listener, return_exceptions=True)
        except ConnectionClosed as end:
            self._end(end)
        except (InvalidHandshake, OSError) as error:
            self.refused = str(error)
        self.begun.set()

    def _frame(self, number: int) -> bytes:
        if not self.speech:
            return FRAME
        return self.speech[number] if number < len(self.speech) else bytes(len(FRAME))

    async def _listen(self, made: Any) -> None:
        try:
            while True:
                payload = await made.find(AUDIO, 60)
                self.answered.append(time.monotonic())
                self.heard.append(payload)
                self.words += [m[1:].decode() for m in made.seen if m[0] == TEXT]
                made.seen.clear()
        except ConnectionClosed as end:
            self._end(end)

    def _end(self, end: ConnectionClosed) -> None:
        self.closed = (end.rcvd.code, end.rcvd.reason) if end.rcvd else (1006, "")
        self.closed_at = time.monotonic()

    @property
    def gap(self) -> float:
        """The longest time between two answers, in seconds in which this process ran."""
        if len(self.answered) < 2:
            return float("inf")
        return max(
            after - before - sum(max(0.0, min(b, after) - max(a, before)) for a, b in self.asleep)
            for before, after in pairwise(self.answered)
        )

    @property
    def sound(self) -> Any:
        """Everything that was heard."""
        return np.frombuffer(b"".join(self.heard), "<i2")

    @property
    def hole(self) -> float:
        """The longest silence in what was heard, from the first sound on, in seconds. For callers
        of an echo, who always speak."""
        loud = np.flatnonzero(np.abs(self.sound) > 100)
        return float(np.max(np.diff(loud))) / 24_000 if len(loud) > 1 else float("inf")


def pressure() -> float:
    """How much of the last minute something waited for a processor, in percent; 0 if unknown."""
    with contextlib.suppress(OSError):
        first = Path("/proc/pressure/cpu").read_text(encoding="utf-8").splitlines()[0]
        return float(first.partition("avg60=")[2].split()[0])
    return 0.0


def in_peace(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """Tries a test with times in it again, twice at most, if it failed on a machine that has too
    much to do: that tells nothing of Kaiwa. The first argument of the test is the stack."""

    @functools.wraps(test)
    async def run(stack: Stack, **more: Any) -> None:
        for _ in range(2):
            try:
                return await test(stack, **more)
            except AssertionError as error:
                if pressure() < _BUSY:
                    raise
                print(f"again, for {pressure():.0f} % of the last minute was waiting: {error}")
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            await until(stack.settled, "the stack has settled", 240)
        return await test(stack, **more)

    return run


async def until(met: Callable[[], Any], what: str, seconds: float) -> None:
    """Waits for something that takes a command of docker to see."""
    end = time.monotonic() + seconds
    while not await asyncio.to_thread(met):
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        await asyncio.sleep(0.3)
