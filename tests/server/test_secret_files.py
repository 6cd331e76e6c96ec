"""A server says which files with secrets every user of the machine may read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kaiwa.server.settings import ServerSettings
from kaiwa.server.startup import warn_of_readable_secrets

pytestmark = pytest.mark.skipif(os.name != "posix", reason="modes are of POSIX")


def test_they_are_named_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    modes = {"keys": 0o644, "token_secret_file": 0o604, "ssl_key": 0o640}
    for name, mode in modes.items():
        (tmp_path / name).write_text("x")
        (tmp_path / name).chmod(mode)
    chosen = ServerSettings(
        keys=str(tmp_path / "keys"),
        token_secret_file=str(tmp_path / "token_secret_file"),
        ssl_key=str(tmp_path / "ssl_key"),
        ssl_cert=str(tmp_path / "none"),
    )
    warn_of_readable_secrets(chosen)
    (record,) = caplog.records
    said = record.getMessage()
    assert f"may read {tmp_path / 'keys'}, {tmp_path / 'token_secret_file'}; run chmod" in said
    assert "ssl_key" not in said


def test_nothing_is_said_of_files_for_their_owner(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "keys").write_text("x")
    (tmp_path / "keys").chmod(0o600)
    warn_of_readable_secrets(ServerSettings(keys=str(tmp_path / "keys")))
    warn_of_readable_secrets(ServerSettings(keys=str(tmp_path / "none")))
    warn_of_readable_secrets(ServerSettings())
    assert caplog.records == []
