"""deploy.sh: what it says, what it would do, and (with --swarm) what it does."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.ops import docker, images, swarm
from tests.ops.docker import ROOT
from tests.server.live import At, wait_until

from kaiwa.server import key_edits

NAMES = {
    "STACK": "kaiwadeploy",
    "KAIWA_KEYS_SECRET": "kaiwadeploy_keys",
    "KAIWA_TOKEN_SECRET": "kaiwadeploy_token",
    "KAIWA_TLS_SECRET": "kaiwadeploy_tls",
}


def script(words: Iterable[str], variables: Mapping[str, str]) -> tuple[int, str]:
    """Exit status and everything that was printed."""
    done = subprocess.run(
        [str(ROOT / "deploy.sh"), *words],
        env={**os.environ, **variables},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def deploy(*words: str, **variables: str) -> tuple[int, str]:
    """The same for the stack of these tests."""
    return script(words, {**NAMES, **variables})


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs the program shellcheck")
def test_shellcheck_is_content() -> None:
    files = [
        "deploy.sh",
        *(str(p) for p in (ROOT / "deploy/image").iterdir() if p.name != "health"),
    ]
    done = subprocess.run(
        ["shellcheck", *files], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_help_and_mistakes() -> None:
    assert deploy("--help")[1].startswith("Runs Kaiwa on a Docker Swarm")
    assert deploy()[0] == 2
    for words in (("fly",), ("scale",), ("scale", "many"), ("up", "--force")):
        status, said = deploy(*words)
        assert status == 1
        assert said.startswith("deploy.sh: ")


def test_without_an_engine_it_says_what_to_do() -> None:
    for command in ("up", "status", "build", "down"):
        status, said = deploy(command, DOCKER_HOST="tcp://127.0.0.1:1")
        assert status == 1
        assert "no Docker engine answers at tcp://127.0.0.1:1" in said


needs_engine = pytest.mark.skipif(not docker.tried("info"), reason="needs a Docker engine")


@needs_engine
def test_the_doctor_names_what_is_missing() -> None:
    status, said = deploy("doctor", KAIWA_IMAGE="kaiwa-absent", KAIWA_MEMORY="9000G")
    assert status == 1
    wrong = [line for line in said.splitlines() if line.startswith("WRONG")]
    assert len(wrong) == 3, said
    assert "kaiwadeploy_keys" in said
    assert "kaiwa-absent" in said
    assert "lower KAIWA_REPLICAS" in said


@needs_engine
def test_a_dry_run_changes_nothing_and_shows_no_secret(tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    key_edits.add(keys, "test", time.time())
    before = docker.docker("info", "-f", "{{.Swarm.LocalNodeState}}")
    status, said = deploy("up", "--dry-run", KEYS=str(keys))
    assert status == 0, said
    assert "would run: docker stack deploy -c swarm-config.yml kaiwadeploy" in said
    assert keys.read_text() not in said
    assert docker.docker("info", "-f", "{{.Swarm.LocalNodeState}}") == before


@needs_engine
@pytest.mark.timeout(1500)
def test_a_life_of_a_stack(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    if not request.config.getoption("--swarm"):
        pytest.skip("takes minutes and a Docker Swarm: run with --swarm")
    keys = tmp_path / "keys.json"
    key_edits.add(keys, "test", time.time())
    standins = images.standins()
    pem = tmp_path / "both.pem"
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost"
    subprocess.run(
        ["openssl", *words.split(), "-keyout", pem, "-out", tmp_path / "cert.pem"],
        check=True,
        capture_output=True,
    )
    pem.write_text(pem.read_text() + (tmp_path / "cert.pem").read_text())
    variables = {
        "TLS": "1",
        "TLS_PEM": str(pem),
        "KAIWA_HTTPS_PORT": "18443",
        "KEYS": str(keys),
        "ADVERTISE_ADDR": "127.0.0.1",
        "KAIWA_IMAGE": images.kaiwa(),
        "HAPROXY_IMAGE": standins,
        "REDIS_IMAGE": standins,
        "PROMETHEUS_IMAGE": standins,
        "KAIWA_MODEL": "synth:echo",
        "KAIWA_REPLICAS": "1",
        "KAIWA_MEMORY": "512M",
        "KAIWA_CPUS": "1",
        "KAIWA_HTTP_PORT": "18082",
        "KAIWA_MAX_SECONDS": "20",
        "KAIWA_SOURCE_CALLS": "77",
    }
    own = docker.docker("info", "-f", "{{.Swarm.LocalNodeState}}") != "active"

    def running(count: int) -> bool:
        words = ("--filter", "label=com.docker.swarm.service.name=kaiwadeploy_kaiwa")
        found = docker.docker("ps", "-q", *words, "--filter", "health=healthy").split()
        return len(found) == count

    def secure() -> bool:
        """Whether the page comes by TLS, and plain HTTP leads to it."""
        trust = ssl.create_default_context(cafile=tmp_path / "cert.pem")
        trust.check_hostname = False
        with contextlib.suppress(OSError):
            url = "https://127.0.0.1:18443/"
            with urllib.request.urlopen(url, context=trust, timeout=5) as answer:
                return answer.status == 200 and At(18082).ask("/").status == 308
        return False

    def spec() -> dict[str, Any]:
        """What Swarm was told of the replicas."""
        facts = json.loads(docker.docker("service", "inspect", "kaiwadeploy_kaiwa"))
        found: dict[str, Any] = facts[0]["Spec"]
        return found

    def well(*words: str, **more: str) -> str:
        status, said = deploy(*words, **{**variables, **more})
        assert status == 0, said
        return said

    try:
        well("doctor")
        well("up")
        wait_until(lambda: running(1), "a replica", 120)
        wait_until(secure, "served by TLS", 60)
        well("up")  # again changes nothing
        well("scale", "2")
        wait_until(lambda: running(2), "two replicas", 120)
        assert "kaiwadeploy_haproxy" in well("status")
        assert "ready" in well("logs")
        # One setting is changed and nothing else is said: the rest stays, the scale included.
        before = spec()
        status, said = script(["update"], {"STACK": "kaiwadeploy", "KAIWA_SLOTS": "3"})
        assert status == 0, said
        assert "kept   KAIWA_MODEL=synth:echo" in said
        assert "kept   KAIWA_SOURCE_CALLS=77" in said
        for name in ("KEYS", "TOKEN", "TLS"):
            assert f"kept   KAIWA_{name}_SECRET=kaiwadeploy_{name.lower()}" in said
        assert "kept   TLS=1" in said
        wait_until(secure, "still served by TLS", 60)
        after = spec()
        env = after["TaskTemplate"]["ContainerSpec"].pop("Env")
        old = before["TaskTemplate"]["ContainerSpec"].pop("Env")
        assert sorted(set(env) ^ set(old)) == ["KAIWA_SLOTS=3", "KAIWA_SLOTS=8"]
        for part in ("ContainerSpec", "Resources"):
            assert after["TaskTemplate"][part] == before["TaskTemplate"][part]
        assert after["Mode"] == before["Mode"] == {"Replicated": {"Replicas": 2}}
        assert after["TaskTemplate"]["ContainerSpec"]["StopGracePeriod"] == 50 * 10**9
        wait_until(lambda: "completed" in deploy("status", **variables)[1], "the update", 180)
        well("rollback")
        wait_until(
            lambda: "rollback_completed" in deploy("status", **variables)[1], "the rollback", 180
        )
    finally:
        with contextlib.ExitStack() as last:
            if own:
                last.callback(docker.tried, "swarm", "leave", "--force")
            deploy("down", **variables)
            swarm.take_down("kaiwadeploy", [NAMES[name] for name in NAMES if name != "STACK"])
