"""What `deploy.sh update` and `rotate` roll out, while calls go on and new callers come."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.ops import docker, images, swarm
from tests.ops.docker import ROOT
from tests.ops.swarm import Caller, Stack, until
from tests.server.live import At, wait_until

from kaiwa.server import key_edits

pytestmark = pytest.mark.timeout(1500)

STACK = "kaiwaroll"
HTTP, HTTPS = 18083, 18444


@dataclass
class Roll:
    """A stack that `deploy.sh` of a copy of the tree brought up, so that its files can change."""

    tree: Path
    variables: dict[str, str]
    key: str = ""
    certificates: list[str] = field(default_factory=list)

    def deploy(self, *words: str, **more: str) -> tuple[int, str]:
        done = subprocess.run(
            [str(self.tree / "deploy.sh"), *words],
            env={**self.variables, **more},
            cwd=self.tree,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def well(self, *words: str, **more: str) -> str:
        status, said = self.deploy(*words, **more)
        assert status == 0, said
        return said

    def update(self, **more: str) -> str:
        """An update of which nothing but the stack and what changes is said."""
        bare = {name: self.variables[name] for name in ("STACK", "PATH", "HOME")}
        done = Roll(self.tree, bare)
        return done.well("update", **more)

    def tasks(self, service: str) -> set[str]:
        """Containers of a service that run."""
        label = f"label=com.docker.swarm.service.name={STACK}_{service}"
        return set(docker.docker("ps", "-q", "--filter", label).split())

    def healthy(self, service: str, count: int) -> bool:
        words = ("--filter", f"label=com.docker.swarm.service.name={STACK}_{service}")
        found = docker.docker("ps", "-q", *words, "--filter", "health=healthy").split()
        return len(found) == count

    def secret(self, service: str, file: str) -> str:
        """Name of the secret that a service has under a file's name."""
        facts = json.loads(docker.docker("service", "inspect", f"{STACK}_{service}"))[0]
        rows = facts["Spec"]["TaskTemplate"]["ContainerSpec"]["Secrets"]
        return next(str(r["SecretName"]) for r in rows if r["File"]["Name"].endswith(file))

    def updated(self, service: str) -> bool:
        """Whether the last update of a service is over."""
        facts = json.loads(docker.docker("service", "inspect", f"{STACK}_{service}"))[0]
        return bool(facts.get("UpdateStatus", {}).get("State", "completed") == "completed")


def certificate(folder: Path, name: str) -> Path:
    """A certificate with its key in one file."""
    pem, cert = folder / f"{name}.pem", folder / f"{name}.crt"
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30"
    subprocess.run(
        ["openssl", *words.split(), "-subj", f"/CN={name}", "-keyout", pem, "-out", cert],
        check=True,
        capture_output=True,
    )
    pem.write_text(pem.read_text() + cert.read_text())
    return pem


def seen_certificate() -> str:
    """The certificate that a new connection gets; empty if there is no connection."""
    with contextlib.suppress(OSError):
        return ssl.get_server_certificate(("127.0.0.1", HTTPS), timeout=5)
    return ""


@pytest.fixture(scope="module")
def roll(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Roll]:
    if not request.config.getoption("--swarm"):
        pytest.skip("takes minutes and a Docker Swarm: run with --swarm")
    if not docker.tried("info"):
        pytest.skip("needs a Docker engine")
    try:
        kaiwa, standins = images.kaiwa(), images.standins()
    except images.CannotBuild as reason:
        pytest.skip(str(reason))
    folder = tmp_path_factory.mktemp("roll")
    tree = folder / "tree"
    tree.mkdir()
    shutil.copytree(ROOT / "deploy", tree / "deploy")
    for name in ("deploy.sh", "swarm-config.yml", "Cargo.toml"):
        shutil.copy2(ROOT / name, tree / name)
    keys = folder / "keys.json"
    _, key = key_edits.add(keys, "first", time.time())
    images_of = ("EDGE", "HAPROXY", "REDIS", "PROMETHEUS", "GRAFANA", "ALERTMANAGER", "BLACKBOX")
    made = Roll(
        tree,
        {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(folder),
            "STACK": STACK,
            "KEYS": str(keys),
            "TLS": "1",
            "TLS_PEM": str(certificate(folder, "first")),
            "GRAFANA": "1",
            "ADVERTISE_ADDR": "127.0.0.1",
            "KAIWA_IMAGE": kaiwa,
            **{f"{name}_IMAGE": standins for name in images_of},
            "KAIWA_MODEL": "synth:echo",
            "KAIWA_REPLICAS": "2",
            "KAIWA_MEMORY": "512M",
            "KAIWA_CPUS": "1",
            "KAIWA_HTTP_PORT": str(HTTP),
            "KAIWA_HTTPS_PORT": str(HTTPS),
            "KAIWA_MAX_SECONDS": "300",
            "KAIWA_SOURCE_RATE": "100000",
        },
        key,
    )
    own = docker.docker("info", "-f", "{{.Swarm.LocalNodeState}}") != "active"
    try:
        with swarm.before_others():
            made.well("up")
            wait_until(lambda: made.healthy("kaiwa", 2), "two replicas", 180)
            wait_until(lambda: made.healthy("haproxy", 2), "two balancers", 60)
            wait_until(lambda: bool(seen_certificate()), "the edge", 60)
            yield made
    finally:
        with contextlib.ExitStack() as last:
            if own:
                last.callback(swarm.leave)
            label = f"label=kaiwa.stack={STACK}"
            words = ("secret", "ls", "--format", "{{.Name}}", "--filter", label)
            swarm.take_down(STACK, docker.docker(*words).split() if docker.tried(*words) else [])


class Visitors:
    """New callers, one after the other, each with a connection of its own."""

    def __init__(self) -> None:
        self.served = 0
        self.failed: list[str] = []
        self._over = False

    async def __aenter__(self) -> Visitors:
        self._task = asyncio.create_task(self._come())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._over = True
        await self._task

    async def _come(self) -> None:
        while not self._over:
            began = time.monotonic()
            try:
                status = await asyncio.to_thread(self._ask)
                if status != 200:
                    self.failed.append(f"status {status}")
            except OSError as error:
                self.failed.append(f"{error!r} after {time.monotonic() - began:.1f} s")
            self.served += 1
            await asyncio.sleep(0.05)

    def _ask(self) -> int:
        context = ssl._create_unverified_context()
        try:
            with urllib.request.urlopen(
                f"https://127.0.0.1:{HTTPS}/", context=context, timeout=10
            ) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code


def call_of(roll: Roll) -> Caller:
    """A call by TLS."""
    options = {"ssl": ssl._create_unverified_context()}
    return Caller(Stack({}, roll.key, roll.tree, SecureAt(HTTPS), options))


class SecureAt(At):
    """A server behind TLS."""

    def url(self, **query: object) -> str:
        return super().url(**query).replace("ws://", "wss://")


async def steady(roll: Roll, what: str, *services: str) -> None:
    await until(lambda: all(roll.updated(s) for s in services), what, 240)
    await until(lambda: roll.healthy("haproxy", 2), "two balancers", 60)


async def test_a_title_of_a_dashboard_changes_nothing_but_the_dashboards(roll: Roll) -> None:
    others = ("kaiwa", "haproxy", "edge", "redis", "prometheus")
    before = {name: roll.tasks(name) for name in others}
    file = roll.tree / "deploy/grafana/dashboards/service.json"
    file.write_text(file.read_text().replace('"title": "', '"title": "Our ', 1))
    roll.update()
    await until(lambda: roll.updated("grafana") and bool(roll.tasks("grafana")), "Grafana", 120)
    (grafana,) = roll.tasks("grafana")
    shown = docker.docker("exec", grafana, "cat", "/etc/grafana/dashboards/service.json")
    assert '"title": "Our ' in shown
    assert docker.docker("exec", grafana, "cat", "/run/secrets/kaiwa_grafana_password")
    assert {name: roll.tasks(name) for name in others} == before


async def test_new_callers_are_served_while_the_balancers_are_replaced(roll: Roll) -> None:
    """First by a new configuration, then by a new certificate; a call goes on all the time."""
    untouched = {name: roll.tasks(name) for name in ("kaiwa", "edge")}
    going = call_of(roll)
    task = asyncio.create_task(going.run())
    await asyncio.wait_for(going.begun.wait(), 20)
    first = seen_certificate()
    async with Visitors() as visitors:
        for change in ("configuration", "certificate"):
            before = roll.tasks("haproxy")
            more = {}
            if change == "configuration":
                file = roll.tree / "deploy/haproxy/haproxy.cfg"
                file.write_text(file.read_text() + "\n# changed\n")
            else:
                more["TLS_PEM"] = str(certificate(roll.tree.parent, "second"))
            await asyncio.to_thread(lambda more=more: roll.update(**more))  # type: ignore[misc]
            await steady(roll, f"the new {change}", "haproxy")
            young = roll.tasks("haproxy") - before
            assert len(young) == 2, (young, before)
        await until(lambda: seen_certificate() not in ("", first), "the new certificate", 60)
        going.stop.set()
        await asyncio.wait_for(task, 30)
    assert visitors.failed == []
    assert visitors.served > 50
    assert going.closed is None
    assert going.refused == ""
    assert going.sent - len(going.answered) <= 1
    assert {name: roll.tasks(name) for name in untouched} == untouched


async def test_a_configuration_that_does_not_work_takes_itself_back(roll: Roll) -> None:
    file = roll.tree / "deploy/haproxy/haproxy.cfg"
    good = file.read_text()
    file.write_text(good + "\nnonsense\n")
    async with Visitors() as visitors:
        await asyncio.to_thread(roll.update)

        def taken_back() -> bool:
            facts = json.loads(docker.docker("service", "inspect", f"{STACK}_haproxy"))[0]
            return bool(facts.get("UpdateStatus", {}).get("State") == "rollback_completed")

        await until(taken_back, "it is taken back", 240)
        await until(lambda: roll.healthy("haproxy", 2), "two balancers", 60)
    file.write_text(good)
    assert visitors.failed == []


async def test_keys_that_changed_are_rolled_out(roll: Roll) -> None:
    keys = Path(roll.variables["KEYS"])
    before = roll.secret("kaiwa", "kaiwa_keys")
    _, key = key_edits.add(keys, "second", time.time())
    await asyncio.to_thread(lambda: roll.update(KEYS=str(keys)))
    after = roll.secret("kaiwa", "kaiwa_keys")
    assert after != before
    await steady(roll, "the new keys", "kaiwa")
    roll.key = key
    caller = call_of(roll)
    task = asyncio.create_task(caller.run())
    await asyncio.wait_for(caller.begun.wait(), 20)
    caller.stop.set()
    await task
    assert (caller.closed, caller.refused) == (None, "")
    # Once more with the same keys: nothing changes.
    tasks = roll.tasks("kaiwa")
    await asyncio.to_thread(lambda: roll.update(KEYS=str(keys)))
    assert (roll.secret("kaiwa", "kaiwa_keys"), roll.tasks("kaiwa")) == (after, tasks)


async def test_a_secret_that_was_named_must_hold_what_the_file_has(roll: Roll) -> None:
    named = roll.secret("kaiwa", "kaiwa_keys")
    other = roll.tree.parent / "other.json"
    key_edits.add(other, "other", time.time())
    status, said = roll.deploy("update", KEYS=str(other), KAIWA_KEYS_SECRET=named)
    assert status == 1
    assert f"the secret {named} (KAIWA_KEYS_SECRET) does not hold what is in KEYS" in said
    assert "nothing was changed" in said
    assert roll.secret("kaiwa", "kaiwa_keys") == named


async def test_a_rotation_refuses_no_token(roll: Roll) -> None:
    """Tokens of either secret count at replicas of either, while they are replaced."""
    secrets = {n: roll.secret("kaiwa", n) for n in ("1-current", "2-next", "3-previous")}
    before = roll.tasks("kaiwa")
    refused: list[str] = []
    used, over = 0, asyncio.Event()

    def token() -> str:
        request = urllib.request.Request(
            f"https://127.0.0.1:{HTTPS}/v1/tokens",
            method="POST",
            headers={"Authorization": f"Bearer {roll.key}"},
        )
        context = ssl._create_unverified_context()
        with urllib.request.urlopen(request, context=context, timeout=10) as answer:
            return str(json.loads(answer.read())["token"])

    def use(fresh: str) -> None:
        url = f"https://127.0.0.1:{HTTPS}/v1/models?token={fresh}"
        context = ssl._create_unverified_context()
        urllib.request.urlopen(url, context=context, timeout=10).close()

    async def visit() -> None:
        nonlocal used
        while not over.is_set():
            try:
                fresh = await asyncio.to_thread(token)
            except OSError as error:
                refused.append(f"no token: {error!r}")
                continue
            try:
                await asyncio.to_thread(use, fresh)
            except OSError as error:
                refused.append(f"{error!r}")
            used += 1
            await asyncio.sleep(0.1)

    visiting = asyncio.create_task(visit())
    bare = Roll(roll.tree, {name: roll.variables[name] for name in ("STACK", "PATH", "HOME")})
    await asyncio.to_thread(lambda: bare.well("rotate"))
    await steady(roll, "the rotation", "kaiwa")
    over.set()
    await visiting
    after = {n: roll.secret("kaiwa", n) for n in ("1-current", "2-next", "3-previous")}
    assert after["1-current"] == secrets["2-next"]
    assert after["3-previous"] == secrets["1-current"]
    assert after["2-next"] not in secrets.values()
    assert not before & roll.tasks("kaiwa")
    assert used > 20
    assert refused == []
    # What neither runs nor would come back by a rollback is gone.
    words = ("secret", "ls", "--format", "{{.Name}}", "--filter", f"label=kaiwa.stack={STACK}")
    kept = docker.docker(*words).split()
    assert len([name for name in kept if "_keys_" in name]) <= 2
