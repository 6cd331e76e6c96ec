"""docker-compose.yml: valid, and what it starts works."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from tests.ops import docker, images
from tests.ops.docker import ROOT
from tests.server.live import At, wait_until
from tests.server.packets import stream
from tests.server.wire import call, tone

PROJECT = "kaiwatest"
PORTS = {"KAIWA_PORT": 18998, "KAIWA_PUBLIC_PORT": 18080, "PROMETHEUS_PORT": 19090}


def programs() -> list[list[str]]:
    """Compose in the versions that there are."""
    found = []
    for words in (["docker", "compose"], ["docker-compose"]):
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run([*words, "version"], capture_output=True, check=False)
            if done.returncode == 0:
                found.append(words)
    return found


PROGRAMS = programs()
pytestmark = pytest.mark.skipif(not PROGRAMS, reason="needs docker compose or docker-compose")
each_program = pytest.mark.parametrize("program", PROGRAMS, ids=" ".join)


def ask(
    program: list[str], *words: str, profiles: tuple[str, ...] = (), **variables: object
) -> str:
    """A command of Compose."""
    chosen = [word for profile in profiles for word in ("--profile", profile)]
    done = subprocess.run(
        [*program, "-p", PROJECT, "-f", str(ROOT / "docker-compose.yml"), *chosen, *words],
        env={**os.environ, **{k: str(v) for k, v in {**PORTS, **variables}.items()}},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@each_program
@pytest.mark.parametrize(
    ("profiles", "services"),
    [
        ((), {"kaiwa"}),
        (("ops",), {"kaiwa", "haproxy", "prometheus", "grafana"}),
        (("gpu",), {"kaiwa", "kaiwa-gpu"}),
        (("ops", "gpu"), {"kaiwa", "kaiwa-gpu", "haproxy", "prometheus", "grafana"}),
    ],
)
def test_profiles(program: list[str], profiles: tuple[str, ...], services: set[str]) -> None:
    named = ask(program, "config", "--services", profiles=profiles).split()
    # docker-compose 1 names all services, whatever the profile is.
    assert services == set(named) or (program == ["docker-compose"] and services < set(named))


@each_program
def test_what_runs_is_confined_and_seen_by_this_machine_only(program: list[str]) -> None:
    told: dict[str, Any] = yaml.safe_load(ask(program, "config", profiles=("ops", "gpu")))
    services = told["services"]
    assert services["kaiwa"]["environment"]["KAIWA_MODEL"] == "demo"
    assert set(services) == {"kaiwa", "kaiwa-gpu", "haproxy", "prometheus", "grafana"}
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        for port in service["ports"]:
            where = port if isinstance(port, str) else port["host_ip"]
            assert where.startswith("127.0.0.1"), name
    for name in ("kaiwa", "kaiwa-gpu", "haproxy", "prometheus"):
        assert services[name]["read_only"] is True
    (device,) = services["kaiwa-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["count"], device["capabilities"]) == ("nvidia", 1, ["gpu"])


@pytest.fixture(params=PROGRAMS, ids=" ".join)
def program(request: pytest.FixtureRequest) -> list[str]:
    """Compose, in each version that there is."""
    found: list[str] = request.param
    return found


@pytest.fixture
def stack(program: list[str]) -> Iterator[At]:
    """Kaiwa, a balancer and Prometheus; Grafana is in no registry that tests may need."""
    if not docker.tried("info"):
        pytest.skip("needs a Docker engine")
    try:
        kaiwa, standins = images.kaiwa(), images.standins()
    except images.CannotBuild as reason:
        pytest.skip(str(reason))
    variables = {
        "KAIWA_IMAGE": kaiwa,
        "HAPROXY_IMAGE": standins,
        "PROMETHEUS_IMAGE": standins,
    }
    try:
        ask(
            program,
            *("up", "-d", "--no-build", "kaiwa", "haproxy", "prometheus"),
            profiles=("ops",),
            **variables,
        )
        yield At(PORTS["KAIWA_PORT"])
    finally:
        gone = ("down", "-v", "-t", "5", "--remove-orphans")
        ask(program, *gone, profiles=("ops",), **variables)


@pytest.mark.timeout(1500)
def test_it_answers_and_the_balancer_and_prometheus_find_it(program: list[str], stack: At) -> None:
    def answers(at: At, path: str) -> bool:
        with contextlib.suppress(OSError):
            return at.ask(path).status == 200
        return False

    wait_until(lambda: answers(stack, "/readyz"), "kaiwa is ready", 60)
    public = At(PORTS["KAIWA_PUBLIC_PORT"])
    wait_until(lambda: answers(public, "/"), "the balancer finds it", 60)
    assert b"<html" in public.ask("/").body
    for path in ("/metrics", "/ops", "/v1/stats", "/healthz"):
        assert public.ask(path).status == 404, path

    async def converse(at: At) -> int:
        async with call(at.url()) as made:
            answers = 0
            # One by one: of frames that come at once, a call's oldest may be dropped.
            for page in stream(tone(5)):
                await made.say(page)
                answers += len(await made.frames(1))
            return answers

    def prometheus(path: str) -> Any:
        url = f"http://127.0.0.1:{PORTS['PROMETHEUS_PORT']}/api/v1/{path}"
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
            return json.load(answer)["data"]
        return {}

    def metric(query: str) -> list[Any]:
        asked = urllib.parse.urlencode({"query": query})
        found: list[Any] = prometheus(f"query?{asked}").get("result", [])
        return found

    def targets() -> dict[str, str]:
        """Everything that is scraped, and how it went."""
        rows = prometheus("targets").get("activeTargets", ())
        return {row["labels"]["job"]: row["health"] for row in rows}

    wait_until(lambda: targets() == {"kaiwa": "up", "haproxy": "up"}, "every target is up", 60)
    # The balancer looks whether calls can be taken by itself, not when it looks for pages.
    takes = 'haproxy_backend_active_servers{proxy="calls"} == 1'
    wait_until(lambda: metric(takes), "the balancer has somebody to give calls to", 60)
    assert asyncio.run(converse(stack)) == 5
    assert asyncio.run(converse(public)) == 5
    wait_until(lambda: metric('kaiwa_conversations_started_total{job="kaiwa"} == 2'), "kaiwa", 60)

    name = ask(program, "ps", "-q", "kaiwa").strip()
    facts = json.loads(docker.docker("inspect", name))[0]
    assert facts["Config"]["User"] == "10001:10001"
    assert facts["HostConfig"]["ReadonlyRootfs"]
    assert facts["HostConfig"]["CapDrop"] == ["ALL"]
    wait_until(
        lambda: (
            json.loads(docker.docker("inspect", name))[0]["State"]["Health"]["Status"] == "healthy"
        ),
        "healthy",
        60,
    )
