"""The balancer's configuration is valid in every mode that its variables make."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from kaiwa.server.protocols.registry import PROTOCOLS
from kaiwa.server.shared.vouchers import HEADER as VOUCHER

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    shutil.which("haproxy") is None or shutil.which("openssl") is None,
    reason="needs the programs haproxy and openssl",
)


@pytest.mark.parametrize("plain", [{}, {"KAIWA_PLAIN_HTTP": "1"}], ids=["redirect", "plain"])
@pytest.mark.parametrize("tls", [False, True], ids=["http", "tls"])
@pytest.mark.parametrize("edge", [{}, {"KAIWA_PROXY_PROTOCOL": "1"}], ids=["alone", "edge"])
def test_it_is_valid(
    edge: dict[str, str], tls: bool, plain: dict[str, str], tmp_path: Path
) -> None:
    variables = plain | edge
    if tls:
        pem = tmp_path / "both.pem"
        words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=x"
        subprocess.run(
            ["openssl", *words.split(), "-keyout", pem, "-out", tmp_path / "cert.pem"],
            check=True,
            capture_output=True,
        )
        pem.write_text(pem.read_text() + (tmp_path / "cert.pem").read_text())
        variables["KAIWA_TLS_PEM"] = str(pem)
    done = subprocess.run(
        ["haproxy", "-c", "-f", str(ROOT / "deploy/haproxy/haproxy.cfg")],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_edge_is_valid() -> None:
    done = subprocess.run(
        ["haproxy", "-c", "-f", str(ROOT / "deploy/edge/edge.cfg")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_voucher_never_comes_from_outside() -> None:
    """By this header servers speak for callers to one another."""
    lines = (ROOT / "deploy/haproxy/haproxy.cfg").read_text(encoding="utf-8").splitlines()
    frontend = lines[lines.index("frontend public") :]
    removed = [line.split()[2].lower() for line in frontend if "http-request del-header" in line]
    assert removed == [VOUCHER]


def test_every_wire_protocol_is_let_through_as_calls() -> None:
    lines = (ROOT / "deploy/haproxy/haproxy.cfg").read_text(encoding="utf-8").splitlines()
    for acl in ("call", "public"):
        words = [line.split() for line in lines if line.split()[:3] == ["acl", acl, "path"]]
        let_through = {path for found in words for path in found[3:]}
        assert {path for protocol in PROTOCOLS for path in protocol.paths} <= let_through
