"""SIGHUP: the certificate and the keys are read again, and no call is cut."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import ssl
import sys
from collections.abc import Callable, Sequence

from kaiwa.errors import InputError
from kaiwa.server.access import Access
from kaiwa.server.settings import ServerSettings
from kaiwa.server.startup import check_pair

log = logging.getLogger("kaiwa.server")


class Reload:
    """Reads again what a running server was given as files."""

    def __init__(
        self, settings: ServerSettings, access: Access, contexts: Sequence[ssl.SSLContext]
    ) -> None:
        """Does nothing yet.

        Args:
            settings: of the server; they name the files.
            access: holds the keys.
            contexts: of its sockets, in which a new certificate counts for new connections.
        """
        self._settings = settings
        self._access = access
        self._contexts = contexts

    def __call__(self) -> None:
        """Reads everything again. What cannot be used is logged, and what was read before counts
        on."""
        settings = self._settings
        if settings.ssl_cert is not None and settings.ssl_key is not None:
            try:
                check_pair(settings.ssl_cert, settings.ssl_key)
                for context in self._contexts:
                    context.load_cert_chain(settings.ssl_cert, settings.ssl_key, password=b"")
            except (InputError, OSError) as error:
                log.error("the certificate was not read again, the former one stays: %s", error)
            else:
                log.info("the certificate was read again; new connections get it")
        if not self._access.is_open:
            self._access.reload_keys()


def listen_for_hangup(reload: Callable[[], None], stop: Callable[[], None]) -> None:
    """Reloads at each SIGHUP from now on, in the event loop that runs.

    Args:
        reload: reads the files again.
        stop: stops the server. Called if the terminal in which it was started is gone, which the
            system tells by the same signal: nobody could stop it there any more.
    """
    if sys.platform == "win32":
        return
    started_in = _terminal()

    def hangup() -> None:
        if started_in is not None and not os.isatty(started_in):
            stop()
        else:
            reload()

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hangup)


def _terminal() -> int | None:
    """The descriptor of the terminal in which this program was started; None if there is none."""
    try:
        number = sys.stdin.fileno()
    except (AttributeError, OSError, ValueError):
        return None
    return number if os.isatty(number) else None
