"""`kaiwa key`: make, list and revoke."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kaiwa.cli.main import main
from kaiwa.server.keys import KeyFile

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Call:
    """Runs `kaiwa key`, with a home folder of its own: code, output, messages."""
    monkeypatch.delenv("KAIWA_KEYS", raising=False)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    def run(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["key", *map(str, words)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def listed(call: Call, *words: object) -> list[dict[str, Any]]:
    code, out, _ = call("list", "--json", *words)
    assert code == 0
    rows: list[dict[str, Any]] = json.loads(out)
    return rows


def test_add_prints_the_key_alone_and_once(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    code, out, err = call("add", "alice", "--file", path)
    assert code == 0
    assert out.startswith("kw_")
    assert out.count("\n") == 1
    key = out.strip()
    assert key not in err
    assert "shown only this once" in err
    assert f"--keys {path}" in err
    assert KeyFile(path).verify(key) is not None
    for words in (("list",), ("list", "--json"), ("revoke", "alice")):
        _, out, err = call(*words, "--file", path)
        assert key not in out + err
        assert KeyFile(path).entries()[0].hash not in out + err


def test_limits_reach_the_file_and_the_list(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    limits = ("--concurrency", 2, "--per-minute", 30, "--max-seconds", 12.5, "--operator")
    assert call("add", "alice", *limits, "--file", path, "--quiet")[::2] == (0, "")
    assert call("add", "bob", "--file", path)[0] == 0
    alice, bob = listed(call, "--file", path)
    assert (alice["name"], alice["operator"], alice["revoked"]) == ("alice", True, None)
    assert (alice["concurrency"], alice["per_minute"], alice["max_seconds"]) == (2, 30, 12.5)
    assert (bob["concurrency"], bob["per_minute"], bob["max_seconds"]) == (None, None, None)
    code, out, _ = call("list", "--file", path)
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    assert lines[1][:5] == ["alice", "yes", "2", "30", "12.5"]
    assert lines[2][:5] == ["bob", "no", "-", "-", "-"]


def test_revoke(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    call("add", "alice", "--file", path)
    code, out, err = call("revoke", "alice", "--file", path)
    assert (code, out) == (0, "")
    assert "worth nothing now" in err
    assert listed(call, "--file", path)[0]["revoked"]
    assert call("revoke", "alice", "--file", path)[0] == 2


def test_which_file(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    default = tmp_path / "home/.config/kaiwa/keys.json"
    assert call("add", "a")[0] == 0
    assert default.exists()
    assert default.parent.stat().st_mode & 0o777 == 0o700
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative/is/ignored")
    assert [row["name"] for row in listed(call)] == ["a"]
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert call("add", "b")[0] == 0
    assert (tmp_path / "xdg/kaiwa/keys.json").exists()
    monkeypatch.setenv("KAIWA_KEYS", "~/by-variable.json")
    (tmp_path / "home/by-variable.json").touch()
    (tmp_path / "home/by-variable.json").unlink()
    assert call("add", "c")[0] == 0
    assert (tmp_path / "home/by-variable.json").exists()
    assert call("add", "d", "--file", tmp_path / "by-option.json")[0] == 0
    assert [row["name"] for row in listed(call, "--file", tmp_path / "by-option.json")] == ["d"]
    assert [row["name"] for row in listed(call)] == ["c"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["add", "a b"], "is no name of a key"),
        (["add", "alice"], "has a key named alice already"),
        (["add", "x", "--concurrency", "0"], "0 is not 1 or more"),
        (["add", "x", "--max-seconds", "-1"], "'-1' is not a positive number"),
        (["revoke", "nobody"], "has no key named nobody"),
        (["list", "--file", "missing.json"], "there is no file of keys missing.json; make one"),
        (["add", "x", "--file", "no/folder/k.json"], "does not exist; create it first"),
        (["list", "--file", "other.json"], "is no file of keys"),
        (["add", "x", "--file", "other.json"], "is no file of keys"),
        ([], "ACTION"),
    ],
)
def test_errors_are_one_line(
    words: list[str], says: str, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.json").write_text("{}", encoding="utf-8")
    call("add", "alice")
    code, out, err = call(*words)
    assert (code, out) == (2, "")
    assert says in err
    assert len(err.splitlines()) == 1
    assert (tmp_path / "other.json").read_text(encoding="utf-8") == "{}"


def test_no_web_stack_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from kaiwa.cli.main import main\n"
        "assert main(['key', 'add', 'a', '--file', sys.argv[1]]) == 0\n"
        "heavy = {'uvicorn', 'starlette', 'websockets', 'huggingface_hub'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "k.json")], check=False)
    assert done.returncode == 0
