"""docker-compose.yml: valid, and what it starts works."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from tests.ops import docker, images
from tests.ops.docker import ROOT
from tests.server.live import At, wait_until
from tests.server.packets import stream
from tests.server.wire import call, tone

PROJECT = "kaiwatest"
PORTS = {"KAIWA_PORT": 18998, "KAIWA_PUBLIC_PORT": 18080, "PROMETHEUS_PORT": 19090}


def compose() -> list[str]:
    """The program that there is."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        found = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
        if found.returncode == 0:
            return ["docker", "compose"]
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    pytest.skip("needs docker compose or docker-compose")


def ask(*words: str, profiles: tuple[str, ...] = (), **variables: object) -> str:
    """A command of Compose."""
    chosen = [word for profile in profiles for word in ("--profile", profile)]
    done = subprocess.run(
        [*compose(), "-p", PROJECT, "-f", str(ROOT / "docker-compose.yml"), *chosen, *words],
        env={**os.environ, **{k: str(v) for k, v in {**PORTS, **variables}.items()}},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_file_is_valid_with_every_profile() -> None:
    assert "KAIWA_MODEL: demo" in ask("config")
    for profiles in (("ops",), ("gpu",), ("ops", "gpu")):
        services = ask("config", "--services", profiles=profiles).split()
        assert "kaiwa" in services


@pytest.fixture
def stack() -> Iterator[At]:
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
        "KAIWA_MODEL": "synth:echo",
    }
    try:
        ask(
            *("up", "-d", "--no-build", "kaiwa", "haproxy", "prometheus"),
            profiles=("ops",),
            **variables,
        )
        yield At(PORTS["KAIWA_PORT"])
    finally:
        ask("down", "-v", "-t", "5", "--remove-orphans", profiles=("ops",), **variables)


@pytest.mark.timeout(1500)
def test_it_answers_and_the_balancer_and_prometheus_find_it(stack: At) -> None:
    pytest.importorskip("websockets")

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

    import asyncio

    async def converse(at: At) -> int:
        async with call(at.url()) as made:
            answers = 0
            # One by one: of frames that come at once, a call's oldest may be dropped.
            for page in stream(tone(5)):
                await made.say(page)
                answers += len(await made.frames(1))
            return answers

    assert asyncio.run(converse(stack)) == 5
    assert asyncio.run(converse(public)) == 5

    def metric(query: str) -> list[Any]:
        asked = urllib.parse.urlencode({"query": query})
        url = f"http://127.0.0.1:{PORTS['PROMETHEUS_PORT']}/api/v1/query?{asked}"
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
            found: list[Any] = json.load(answer)["data"]["result"]
            return found
        return []

    wait_until(lambda: metric('kaiwa_conversations_started_total{job="kaiwa"} == 2'), "kaiwa", 60)
    wait_until(lambda: metric('up{job="haproxy"} == 1'), "haproxy", 60)

    name = ask("ps", "-q", "kaiwa").strip()
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
