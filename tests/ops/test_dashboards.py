"""The dashboards are what tools/dashboards.py writes, and each of their queries has data in a real
Prometheus that scrapes a real server."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.server.live import program, wait_until
from tests.server.packets import stream
from tests.server.wire import call, tone

ROOT = Path(__file__).parents[2]
DASHBOARDS = sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"))
RULES = ROOT / "deploy" / "prometheus" / "rules.yml"

#: What is zero or absent while nothing goes wrong: its query is right, but may have no data.
QUIET = ("Callers sent away", "Round trip to the callers")


def queries(*paths: Path) -> list[tuple[str, str]]:
    """Title and PromQL of every query of dashboards, of all if none is named."""
    found = []
    for path in paths or DASHBOARDS:
        for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]:
            for target in panel["targets"]:
                found.append((f"{path.stem}: {panel['title']}", target["expr"]))
    return found


def filled(query: str, interval: str) -> str:
    """A query as Grafana would send it, for all replicas."""
    for name, value in (("$replica", ".+"), ("$__rate_interval", interval), ("$price", "2")):
        query = query.replace(name, value)
    return query


def test_the_files_are_what_the_code_writes() -> None:
    spec = importlib.util.spec_from_file_location("dashboards", ROOT / "tools" / "dashboards.py")
    assert spec is not None
    assert spec.loader is not None
    made: Any = importlib.util.module_from_spec(spec)
    sys.modules["dashboards"] = made
    spec.loader.exec_module(made)
    wanted = made.files()
    assert set(wanted) == set(DASHBOARDS)
    for path, text in wanted.items():
        assert path.read_text(encoding="utf-8") == text, "run python tools/dashboards.py"


def test_panels_have_ids_places_and_a_source() -> None:
    for path in DASHBOARDS:
        board = json.loads(path.read_text(encoding="utf-8"))
        ids = [panel["id"] for panel in board["panels"]]
        assert len(set(ids)) == len(ids)
        taken: set[tuple[int, int]] = set()
        for panel in board["panels"]:
            grid = panel["gridPos"]
            assert grid["x"] + grid["w"] <= 24
            cells = {
                (x, y)
                for x in range(grid["x"], grid["x"] + grid["w"])
                for y in range(grid["y"], grid["y"] + grid["h"])
            }
            assert not cells & taken, panel["title"]
            taken |= cells
            assert panel["datasource"]["uid"] == "${source}"
        names = [variable["name"] for variable in board["templating"]["list"]]
        assert names[:2] == ["source", "replica"]
        used = set(re.findall(r"\$([a-z]+)", " ".join(query for _, query in queries(path))))
        assert used <= set(names)


class Prometheus:
    """A Prometheus of our own."""

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(self, query: str) -> list[dict[str, Any]]:
        """Result of a query now."""
        asked = urllib.parse.urlencode({"query": query})
        url = f"http://127.0.0.1:{self.port}/api/v1/query?{asked}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            body = json.load(answer)
        assert body["status"] == "success", body
        found: list[dict[str, Any]] = body["data"]["result"]
        return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def scraped(tmp_path: Path) -> Iterator[Any]:
    """A server with a model, and a Prometheus that looks at it every second."""
    if shutil.which("prometheus") is None:
        pytest.skip("needs the program prometheus (Debian: apt-get install prometheus)")
    options = ("--model", "synth:tiny", "--mimi", "synth:small", "--slots", 1)
    with program(*options, "--queue-seconds", 0, "--step-budget-ms", 10_000) as server:
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(RULES)],
            "scrape_configs": [
                {
                    "job_name": "kaiwa",
                    "static_configs": [{"targets": [f"127.0.0.1:{server.port}"]}],
                }
            ],
        }
        (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
        port = free_port()
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={tmp_path / 'prometheus.yml'}",
                f"--storage.tsdb.path={tmp_path / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            prometheus = Prometheus(port)

            def scraping() -> bool:
                try:
                    return bool(prometheus.ask("kaiwa_ready == 1"))
                except OSError:
                    return False

            wait_until(scraping, "Prometheus scrapes", 30)
            yield server, prometheus
        finally:
            process.terminate()
            process.wait(20)


async def test_every_query_has_data_and_a_full_house_raises_its_alarm(scraped: Any) -> None:
    server, prometheus = scraped
    for _ in range(2):
        async with call(server.url()) as made:
            for page in stream(tone(15)):
                await made.say(page)
                await made.frames(1)
            # The house is full.
            for _ in range(2):
                async with call(server.url(), begin=False) as other:
                    assert await other.gone() == (1013, "full")
        time.sleep(2.5)
    wait_until(lambda: prometheus.ask('kaiwa_conversations_ended_total{reason="client"} == 2'))
    time.sleep(2)
    empty = []
    for title, query in queries():
        found = prometheus.ask(filled(query, "30s"))
        numbers = [row["value"][1] for row in found]
        if (not any(name in title for name in QUIET) and "NaN" in numbers) or not found:
            empty.append(f"{title}: {query} -> {numbers}")
    assert empty == []
    for rule in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"][0]["rules"]:
        # There is no balancer here; the rules over its metrics are tested with promtool.
        if "haproxy_" not in rule["expr"]:
            assert prometheus.ask(rule["record"]), rule["record"]
    # It goes on to fire after a minute; that it would is tested with promtool.
    assert prometheus.ask('ALERTS{alertname="KaiwaCallersRejected", alertstate="pending"}')
    # Nor does any other, but the one that always does, and those that tell of a slow machine,
    # which this one may be.
    others = (
        "KaiwaWatchdog|KaiwaCallersRejected|KaiwaEventLoopLate|KaiwaSlowSteps|KaiwaDeadlinesMissed"
    )
    assert not prometheus.ask(f'ALERTS{{alertname!~"{others}"}}')
