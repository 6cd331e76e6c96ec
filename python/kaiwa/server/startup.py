"""Checks before a server listens."""

from __future__ import annotations

import contextlib
import logging
import os
import ssl
import stat
import time
from pathlib import Path

from kaiwa.errors import InputError
from kaiwa.server import tracing
from kaiwa.server.keys import KeyFile
from kaiwa.server.settings import ServerSettings
from kaiwa.server.shared import replicas

log = logging.getLogger("kaiwa.server")


def check_startup(settings: ServerSettings) -> None:
    """Refuses settings that would serve nobody, or everybody by mistake.

    Raises:
        InputError: nobody or anybody could call, or a file is missing.
        KaiwaError: a package is missing that a setting needs.
    """
    if settings.keys is not None:
        if not any(key.counts(time.time()) for key in KeyFile(settings.keys).entries()):
            raise InputError(
                f"{settings.keys} holds no key that counts, so nobody could call; make one with "
                f"`kaiwa key add NAME --file {settings.keys}`"
            )
    elif not settings.is_loopback and not (settings.no_auth and settings.insecure):
        raise InputError(_open_to_all(settings))
    if settings.otlp_endpoint is not None:
        tracing.check()
    replicas.signer(settings)
    replicas.password(settings)
    for name in ("ssl_cert", "ssl_key"):
        path = getattr(settings, name)
        if path is not None and not Path(path).is_file():
            raise InputError(f"the file of {name} does not exist; give a file in PEM form")
    if settings.ssl_cert is not None and settings.ssl_key is not None:
        check_pair(settings.ssl_cert, settings.ssl_key)


def check_pair(cert: str, key: str) -> None:
    """Refuses what TLS cannot use.

    Raises:
        InputError: the files cannot be read, or do not belong together.
    """
    try:
        # With an empty password OpenSSL does not ask for one at a terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password=b"")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise InputError(
            f"ssl_cert and ssl_key cannot be used ({reason}); give a certificate and its own key, "
            "both in PEM form, the key without a password"
        ) from None


def warn_of_readable_secrets(settings: ServerSettings) -> None:
    """Logs in one line which files with secrets other users of this machine may read."""
    if os.name != "posix":
        return
    open_to_all = []
    for name in ("keys", "token_secret_file", "redis_password_file", "ssl_key"):
        path = getattr(settings, name)
        # Docker gives its secrets such modes, in a place that nobody else can see.
        if path is None or os.path.realpath(path).startswith("/run/secrets/"):
            continue
        with contextlib.suppress(OSError):
            if Path(path).stat().st_mode & stat.S_IROTH:
                open_to_all.append(str(path))
    if open_to_all:
        log.warning(
            "every user of this machine may read %s; run chmod o= on what is secret",
            ", ".join(open_to_all),
        )


def _open_to_all(settings: ServerSettings) -> str:
    """The refusal of settings by which everyone could call."""
    reach = "--tunnel" if settings.tunnel else f"--host {settings.host}"
    missing = "--insecure" if settings.no_auth else "--no-auth --insecure"
    return (
        f"with {reach} others can reach this server, and it has no keys; make one with `kaiwa key "
        f"add NAME --file FILE` and start with --keys FILE, or serve everyone who can reach it "
        f"by adding {missing}"
    )
