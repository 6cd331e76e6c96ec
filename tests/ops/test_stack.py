"""What the stack's files come to, as Docker reads them: secrets, networks, logs, images."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml
from tests.ops import test_compose
from tests.ops.docker import ROOT

from kaiwa.server.settings import ServerSettings

FILES = ("swarm-config.yml", *(f"deploy/swarm/{name}.yml" for name in ("gpu", "tls", "grafana")))

needs_docker = pytest.mark.skipif(
    shutil.which("docker") is None
    or subprocess.run(["docker", "stack", "config", "--help"], capture_output=True).returncode != 0,
    reason="needs the program docker, with `docker stack config`",
)


@functools.cache
def stack(*files: str, **variables: str) -> dict[str, Any]:
    """The whole stack with everything beside it, or some of its files. Asks no engine."""
    words = [word for file in files or FILES for word in ("-c", file)]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("KAIWA")}
    done = subprocess.run(
        ["docker", "stack", "config", *words],
        env={**kept, "DOCKER_HOST": "tcp://127.0.0.1:1", **variables},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = yaml.safe_load(done.stdout)
    return found


@functools.cache
def compose(**variables: str) -> dict[str, Any]:
    """Compose's services with all profiles."""
    if not test_compose.PROGRAMS:
        pytest.skip("needs docker compose or docker-compose")
    said = test_compose.ask(
        test_compose.PROGRAMS[0], "config", profiles=("ops", "gpu"), **variables
    )
    found: dict[str, Any] = yaml.safe_load(said)
    return found


def environment(service: dict[str, Any]) -> dict[str, str]:
    """Variables of a service."""
    return dict(service.get("environment") or {})


@needs_docker
def test_redis_has_a_password_that_is_in_files_alone() -> None:
    found = stack()
    services = found["services"]
    kaiwa, redis = services["kaiwa"], services["redis"]
    assert kaiwa["environment"]["KAIWA_REDIS_PASSWORD_FILE"] == "/run/secrets/kaiwa_redis_password"
    assert "@" not in kaiwa["environment"]["KAIWA_REDIS_URL"]
    assert {"source": "kaiwa_redis_password"} in kaiwa["secrets"]
    # The one that servers send is among those that Redis takes.
    assert [secret["source"] for secret in redis["secrets"]] == [
        "kaiwa_redis_password",
        "kaiwa_redis_password_next",
        "kaiwa_redis_password_previous",
    ]
    assert {secret["target"].rpartition("/")[0] for secret in redis["secrets"]} == {
        "/run/secrets/redis"
    }
    assert redis["entrypoint"] == ["sh", "/etc/kaiwa/redis.sh"]
    assert not redis.get("command")
    assert not environment(redis)
    assert redis["user"] == "999:999"
    assert list(redis["networks"]) == ["inside"]
    assert "ports" not in redis
    assert found["configs"]["redis"]["file"].endswith("deploy/redis/start.sh")


@needs_docker
def test_what_goes_between_nodes_is_encrypted_and_leads_nowhere() -> None:
    found = stack()
    assert found["networks"]["inside"]["driver_opts"] == {"encrypted": "true"}
    assert found["networks"]["inside"]["internal"] is True
    for name, service in found["services"].items():
        assert "inside" in service["networks"], name
        # Out of it only who has to: models are downloaded, callers come in, alerts go out.
        assert name in ("kaiwa", "edge", "alertmanager") or list(service["networks"]) == ["inside"]
        assert name == "edge" or "ports" not in service


SECRET = re.compile(r"password|secret|token|credential", re.IGNORECASE)


@needs_docker
def test_no_secret_is_in_a_variable_or_on_a_command_line() -> None:
    found = stack()
    for name, service in found["services"].items():
        for variable, value in environment(service).items():
            if SECRET.search(variable):
                assert variable.endswith("_FILE"), (name, variable)
                assert value.startswith("/run/secrets/"), (name, variable)
        for word in (*(service.get("command") or ()), *(service.get("entrypoint") or ())):
            assert not SECRET.search(word) or word.partition("=")[2].startswith("/run/secrets/")
    # Every secret comes from outside, so that none is in a file of the stack.
    assert all(secret["external"] for secret in found["secrets"].values())
    used = {
        s["source"] for service in found["services"].values() for s in service.get("secrets", ())
    }
    assert used == set(found["secrets"])


@needs_docker
def test_grafanas_password_is_a_secret() -> None:
    grafana = stack()["services"]["grafana"]
    told = environment(grafana)
    assert told["GF_SECURITY_ADMIN_PASSWORD__FILE"] == "/run/secrets/kaiwa_grafana_password"
    assert {"source": "kaiwa_grafana_password"} in grafana["secrets"]
    assert "GF_AUTH_ANONYMOUS_ENABLED" not in told
    # On one machine there is no user with a password at all.
    told = environment(compose()["services"]["grafana"])
    assert told["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert not any("PASSWORD" in variable for variable in told)


def megabytes(text: str) -> int:
    assert text.endswith("m")
    return int(text[:-1])


@needs_docker
def test_the_log_of_every_container_is_bounded() -> None:
    for services in (stack()["services"], compose()["services"]):
        for name, service in services.items():
            logging = service["logging"]
            assert logging["driver"] == "json-file", name
            most = megabytes(logging["options"]["max-size"]) * int(logging["options"]["max-file"])
            assert 0 < most <= 100, name


REVISION = "0123456789abcdef0123456789abcdef01234567"


@needs_docker
def test_the_revision_of_the_model_goes_through_the_stack() -> None:
    model = {"KAIWA_MODEL": "kyutai/moshika-candle-q8", "KAIWA_REVISION": REVISION}
    rendered = [
        stack("swarm-config.yml", **model)["services"]["kaiwa"],
        stack("swarm-config.yml", "deploy/swarm/gpu.yml", **model)["services"]["kaiwa"],
        *(compose(**model)["services"][name] for name in ("kaiwa", "kaiwa-gpu")),
    ]
    for service in rendered:
        told = environment(service)
        wanted = {name: told[name] for name in (*model, "KAIWA_SLOTS")}
        settings = ServerSettings.load(environ=wanted)
        assert settings.revision == REVISION
    # Without one the server asks for the newest.
    told = environment(stack()["services"]["kaiwa"])
    assert ServerSettings.load(environ={"KAIWA_REVISION": told["KAIWA_REVISION"]}).revision is None


@needs_docker
def test_every_image_can_be_named_by_its_digest() -> None:
    """And none is the newest of its kind, whatever that is when a container starts."""
    digest = "@sha256:" + "0123456789abcdef" * 4
    for services, variables in (
        (stack()["services"], stack_images(ROOT / "swarm-config.yml")),
        (compose()["services"], stack_images(ROOT / "docker-compose.yml")),
    ):
        named = {name: f"registry.example/{name.lower()}{digest}" for name in variables}
        again = stack(**named) if services is not None and "edge" in services else compose(**named)
        for name, service in again["services"].items():
            assert service["image"].endswith(digest), name
            built = services[name]["image"] in ("kaiwa", "kaiwa-cuda")
            assert built or re.search(r":v?\d+\.\d+(\.\d+)?$", services[name]["image"]), name


def stack_images(path: Any) -> set[str]:
    """The variables that name images."""
    paths = [path] if path.name != "swarm-config.yml" else [ROOT / file for file in FILES]
    text = "\n".join(file.read_text() for file in paths)
    return set(re.findall(r'image: "\$\{(\w+_IMAGE):-', text))


@needs_docker
def test_one_machine_has_no_redis() -> None:
    """Nothing is shared there, so there is none that could lack a password."""
    assert "redis" not in compose()["services"]
