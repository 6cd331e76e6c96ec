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
from tests.ops.fake_docker import DIGEST
from tests.server.live import At, wait_until

from kaiwa.plan.model import CODEC_BYTES, CODEC_STATE_BYTES, MODELS
from kaiwa.plan.sizing import PROCESS_BYTES
from kaiwa.server import key_edits

NAMES = {"STACK": "kaiwadeploy"}


def script(words: Iterable[str], variables: Mapping[str, str]) -> tuple[int, str]:
    """Exit status and everything that was printed."""
    done = subprocess.run(
        [str(ROOT / "deploy.sh"), *words],
        env={**os.environ, **variables},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=300,
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
        "deploy/digests.sh",
        "deploy/haproxy/health.sh",
        "deploy/redis/start.sh",
        "tests/ops/nodes.sh",
        *(str(p) for p in (ROOT / "deploy/image").iterdir() if p.name != "health"),
    ]
    done = subprocess.run(
        ["shellcheck", "-x", *files], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_help_and_mistakes() -> None:
    assert deploy("--help")[1].startswith("Runs Kaiwa on a Docker Swarm")
    assert deploy()[0] == 2
    wrong = (
        ("fly",),
        ("scale",),
        ("scale", "many"),
        ("up", "--force"),
        ("up", "now"),
        ("scale", "1", "2"),
    )
    for words in wrong:
        status, said = deploy(*words)
        assert status == 1
        assert said.startswith("deploy.sh: ")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("STACK", "my stack"),
        ("KAIWA_SLOTS", "0"),
        ("KAIWA_REPLICAS", "three"),
        ("KAIWA_REPLICAS", "-1"),
        ("KAIWA_MEMORY", "a lot"),
        ("KAIWA_MEMORY", "16 G"),
        ("KAIWA_CPUS", "4,5"),
        ("KAIWA_MAX_SECONDS", "6m"),
        ("KAIWA_GRACE", "390"),
        ("KAIWA_UPDATE_ORDER", "first"),
        ("KAIWA_HTTP_PORT", "70000"),
        ("KAIWA_REDIS_DOWN", "maybe"),
    ],
)
def test_a_value_that_cannot_be_is_named(name: str, value: str) -> None:
    status, said = deploy("doctor", **{name: value})
    assert status == 1
    assert said.startswith(f"deploy.sh: {name} is '{value}'; "), said


def test_without_an_engine_it_says_what_to_do() -> None:
    for command in (
        "up",
        "update",
        "status",
        "build",
        "push",
        "scale 1",
        "rollback",
        "logs",
        "down",
    ):
        status, said = deploy(*command.split(), DOCKER_HOST="tcp://127.0.0.1:1")
        assert status == 1
        assert "no Docker engine answers at tcp://127.0.0.1:1" in said
    status, said = deploy("doctor", DOCKER_HOST="tcp://127.0.0.1:1")
    assert status == 1
    assert said.startswith("WRONG  no Docker engine answers at tcp://127.0.0.1:1")


def secrets(stack: str) -> list[str]:
    """Names of the secrets that were made for a stack; none where there is no Swarm."""
    words = ("secret", "ls", "--format", "{{.Name}}", "--filter", f"label=kaiwa.stack={stack}")
    return docker.docker(*words).split() if docker.tried(*words) else []


needs_engine = pytest.mark.skipif(not docker.tried("info"), reason="needs a Docker engine")


@needs_engine
def test_the_doctor_names_what_is_missing() -> None:
    asked = {"KAIWA_IMAGE": "kaiwa-absent", "KAIWA_MODEL": "me/mine", "KAIWA_MEMORY": "9000G"}
    status, said = deploy("doctor", **asked, KAIWA_CPUS="5000", TLS="1", TLS_PEM="/dev/null")
    assert status == 1
    wrong = [line for line in said.splitlines() if line.startswith("WRONG")]
    assert len(wrong) == 5, said
    assert "no secret kaiwadeploy_keys: kaiwa key add" in wrong[0]
    assert "there is no file /dev/null that can be read: set TLS_PEM" in wrong[1]
    assert "kaiwa-absent" in wrong[2]
    assert "KAIWA_CPUS is 5000" in wrong[3]
    assert "lower KAIWA_REPLICAS" in wrong[4]


@needs_engine
@pytest.mark.parametrize(
    ("form", "model", "kv", "seconds"),
    [
        ("int8", "kyutai/moshika-candle-q8", None, None),
        ("int4", "kyutai/moshiko-mlx-q4", "int8", "60"),
        ("bf16", "kyutai/moshika-pytorch-bf16", "float32", "0"),
    ],
)
def test_the_doctor_knows_what_a_model_needs(
    form: str, model: str, kv: str | None, seconds: str | None
) -> None:
    """As `kaiwa plan` does."""
    asked = {"KAIWA_MODEL": model, "KAIWA_SLOTS": "5", "KAIWA_MEMORY": "1500M"}
    asked |= {"KAIWA_KV_DTYPE": kv} if kv else {}
    asked |= {"KAIWA_MAX_SECONDS": seconds} if seconds else {}
    status, said = deploy("doctor", KAIWA_REPLICAS="1", **asked)
    longest = float(seconds or 360) or None
    state = MODELS["7b"].state_bytes(kv or "bfloat16", longest) + CODEC_STATE_BYTES
    need = PROCESS_BYTES + CODEC_BYTES + MODELS["7b"].weight_bytes(form) + 5 * state
    assert status == 1
    assert f"{model} with 5 slots needs {need / 2**30:.1f} GiB: raise KAIWA_MEMORY" in said, said


@needs_engine
def test_up_stops_where_the_doctor_finds_something_wrong(tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    keys.write_text("{}", encoding="utf-8")
    before = docker.docker("info", "-f", "{{.Swarm.LocalNodeState}}")
    asked = {"KEYS": str(keys), "KAIWA_IMAGE": "kaiwa-absent", "KAIWA_MODEL": "demo"}
    status, said = deploy("up", **asked)
    assert status == 1
    assert "WRONG  KEYS is no file of keys" in said
    assert "WRONG  no image kaiwa-absent here: ./deploy.sh build" in said
    assert said.endswith("nothing was changed (FORCE=1 goes on all the same)\n")
    assert docker.docker("info", "-f", "{{.Swarm.LocalNodeState}}") == before
    assert before != "active" or not secrets("kaiwadeploy")


@needs_engine
def test_a_dry_run_changes_nothing_and_shows_no_secret(tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    key_edits.add(keys, "test", time.time())
    before = docker.docker("info", "-f", "{{.Swarm.LocalNodeState}}")
    status, said = deploy("up", "--dry-run", KEYS=str(keys))
    assert status == 0, said
    assert "would run: docker stack deploy --prune -c swarm-config.yml kaiwadeploy" in said
    assert keys.read_text() not in said
    status, said = deploy("build", "--dry-run", BASE="debian:bookworm-slim@sha256:0", GPU="0")
    assert status == 0, said
    assert said.startswith("would run: docker build -f Dockerfile -t kaiwa --build-arg VERSION=0.")
    assert "--build-arg BASE=debian:bookworm-slim@sha256:0" in said
    status, said = deploy("build", "--dry-run", GPU="1", CUDA_COMPUTE_CAP="89")
    assert "-f Dockerfile.cuda -t kaiwa-cuda" in said
    assert "--build-arg CUDA_COMPUTE_CAP=89" in said
    status, said = deploy("build", "--dry-run", GPU="1", KAIWA_CUDA_ARCHITECTURES="80 90")
    assert "--build-arg KAIWA_CUDA_ARCHITECTURES=80" in said
    assert docker.docker("info", "-f", "{{.Swarm.LocalNodeState}}") == before


def fake_docker(folder: Path) -> dict[str, str]:
    """Variables with a program in the place of docker, for which a stack runs."""
    program = folder / "docker"
    if not program.exists():
        program.symlink_to(ROOT / "tests/ops/fake_docker.py")
    return {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "FAKE_DOCKER_DEPLOYED": str(folder / "deployed"),
        "FORCE": "1",
        "KAIWA_MEMORY": "1G",
    }


def deployed(folder: Path) -> dict[str, str]:
    lines = (folder / "deployed").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)


def test_an_update_keeps_the_digests_of_images_and_the_revision(tmp_path: Path) -> None:
    status, said = deploy("update", **fake_docker(tmp_path))
    assert status == 0, said
    found = deployed(tmp_path)
    for name in ("edge", "haproxy", "redis", "prometheus", "alertmanager"):
        assert found[f"{name.upper()}_IMAGE"] == f"{name}:1{DIGEST}"
    assert found["KAIWA_REVISION"] == "abc"
    # Of another model it would be none.
    status, said = deploy("update", **fake_docker(tmp_path), KAIWA_MODEL="me/other")
    assert status == 0, said
    assert "KAIWA_REVISION" not in deployed(tmp_path)


def test_images_by_digest_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "images.env"
    file.write_text(f"# of a release\n\nREDIS_IMAGE=redis{DIGEST}\nEDGE_IMAGE=a/b.c:5/d{DIGEST}")
    status, said = deploy(
        "update", **fake_docker(tmp_path), IMAGES=str(file), EDGE_IMAGE="mine/edge:1"
    )
    assert status == 0, said
    found = deployed(tmp_path)
    assert found["REDIS_IMAGE"] == f"redis{DIGEST}"
    assert found["EDGE_IMAGE"] == "mine/edge:1"
    for wrong in ("REDIS_IMAGE=redis:7.4", "PATH=/bin", "REDIS_IMAGE=$(id)", "x"):
        file.write_text(wrong)
        status, said = deploy("doctor", **fake_docker(tmp_path), IMAGES=str(file))
        assert status == 1
        assert f"IMAGES has a line that is no image by its digest: {wrong}" in said
    status, said = deploy("doctor", IMAGES=str(tmp_path / "none"))
    assert status == 1
    assert "there is no file" in said


@needs_engine
def test_an_image_without_a_registry_is_not_pushed() -> None:
    status, said = deploy("push")
    assert status == 1
    assert "kaiwa names no registry; set KAIWA_IMAGE" in said


@needs_engine
def test_a_manager_elsewhere_is_reached_by_ssh(tmp_path: Path) -> None:
    """With a program in the place of ssh that runs here what ssh is asked to run there."""
    ssh = tmp_path / "ssh"
    ssh.write_text(
        "#!/bin/sh\n"
        f'echo "$@" >>{tmp_path}/asked\n'
        'while [ $# -gt 0 ] && [ "${1#docker}" = "$1" ]; do shift; done\n'
        'unset DOCKER_HOST\nexec sh -c "$*"\n'
    )
    ssh.chmod(0o755)
    _, said = deploy(
        "doctor", PATH=f"{tmp_path}:{os.environ['PATH']}", DOCKER_HOST="ssh://op@manager"
    )
    assert said.startswith("ok     Docker engine"), said
    assert " at ssh://op@manager" in said.splitlines()[0]
    assert "-l op" in (tmp_path / "asked").read_text()
    assert "no secret kaiwadeploy_keys: kaiwa key add NAME" in said


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
        "KAIWA_IMAGE": "kaiwa-test-life",
        "EDGE_IMAGE": standins,
        "HAPROXY_IMAGE": standins,
        "REDIS_IMAGE": standins,
        "ALERTMANAGER_IMAGE": standins,
        "BLACKBOX_IMAGE": standins,
        "PROMETHEUS_IMAGE": standins,
        "KAIWA_MODEL": "synth:echo",
        "KAIWA_REPLICAS": "1",
        "KAIWA_MEMORY": "512M",
        "KAIWA_CPUS": "1",
        "KAIWA_HTTP_PORT": "18082",
        "KAIWA_MAX_SECONDS": "20",
        "KAIWA_SOURCE_CALLS": "77",
    }
    docker.docker("tag", images.kaiwa(), "kaiwa-test-life")
    own = docker.docker("info", "-f", "{{.Swarm.LocalNodeState}}") != "active"

    def replicas() -> list[str]:
        words = ("--filter", "label=com.docker.swarm.service.name=kaiwadeploy_kaiwa")
        return docker.docker("ps", "-q", *words, "--filter", "health=healthy").split()

    def running(count: int) -> bool:
        return len(replicas()) == count

    def image() -> str:
        return docker.docker("image", "inspect", "-f", "{{.Id}}", "kaiwa-test-life")

    def all_are(wanted: str) -> bool:
        with contextlib.suppress(docker.DockerError):
            return {docker.inspect(name)["Image"] for name in replicas()} == {wanted}
        return False

    def forget_images() -> None:
        names = docker.docker(
            "image", "ls", "--format", "{{.Repository}}:{{.Tag}}", "kaiwa-test-life"
        )
        docker.tried("image", "rm", "-f", *names.split())

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
        first = replicas()
        well("up")  # again changes nothing
        assert replicas() == first
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
        for name, kind in (("KEYS", "keys"), ("TOKEN", "token_secret"), ("TLS", "tls")):
            assert f"kept   KAIWA_{name}_SECRET=kaiwadeploy_{kind}_" in said
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
        # A local image that was built anew under its name is another one, and the old one is kept.
        old_image = image()
        text = "FROM kaiwa-test-life\nLABEL kaiwa.test.life=2\n"
        docker.docker("build", "-t", "kaiwa-test-life", "-", stdin=text)
        assert image() != old_image
        status, said = script(["update"], {"STACK": "kaiwadeploy"})
        assert status == 0, said
        assert "kept   KAIWA_IMAGE=kaiwa-test-life:latest" in said
        wait_until(lambda: running(2) and all_are(image()), "the new image", 180)
        well("rollback")
        wait_until(
            lambda: "rollback_completed" in deploy("status", **variables)[1], "the rollback", 180
        )
        assert all_are(old_image)
        well("down")
        assert docker.docker("ps", "-q", "--filter", "name=kaiwadeploy_") == ""
        assert "Nothing found in stack" in well("down")
    finally:
        with contextlib.ExitStack() as last:
            if own:
                last.callback(swarm.leave)
            last.callback(forget_images)
            deploy("down", **variables)
            swarm.take_down("kaiwadeploy", secrets("kaiwadeploy"))
