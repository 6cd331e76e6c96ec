"""`kaiwa serve`: a server for browsers and other clients."""

from __future__ import annotations

import argparse
import logging
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kaiwa.engine import Engine
    from kaiwa.load_options import Progress
    from kaiwa.server.settings import ServerSettings

#: Seconds between two lines of the log that say how far the model is loaded.
PROGRESS_SECONDS = 5.0


def add_parser(commands: Any) -> None:
    """Adds the command to the program's parser."""
    from kaiwa.server.settings import settings
    from kaiwa.server.settings_reader import add_arguments

    parser: argparse.ArgumentParser = commands.add_parser(
        "serve",
        help="a server for browsers and other clients",
        description="Serve conversations: a web page at /, Kyutai's protocol at /api/chat, "
        "OpenAI's Live at /v1/live/sessions, phone calls at /telephony/NAME, a page for operators "
        "at /ops, metrics at /metrics. Every option is also a variable and a "
        "key of a file in TOML; see docs/settings.md.",
    )
    add_arguments(parser, settings())
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serves; see the parser for the arguments."""
    import dataclasses

    from kaiwa import demo
    from kaiwa.errors import KaiwaError
    from kaiwa.server import settings_reader
    from kaiwa.server.settings import ServerSettings, settings
    from kaiwa.terminal import progress

    chosen = ServerSettings.load(args)
    if not chosen.model:
        progress.summary(demo.HINT, quiet=False)
        chosen = dataclasses.replace(chosen, model=demo.SOURCE)
    try:
        from kaiwa.server.run import serve
    except ImportError as error:
        raise KaiwaError(
            f"the server needs the package {error.name}; install kaiwa again with its dependencies"
        ) from error
    for line in settings_reader.misspelt(settings(), os.environ):
        logging.getLogger("kaiwa.server").warning("%s", line)
    return serve(chosen, load)


def load(settings: ServerSettings) -> Engine:
    """The engine that settings ask for. `synth:echo` is one without a model, for measuring the
    server itself."""
    from kaiwa import model_options
    from kaiwa.engine import Engine

    shared: dict[str, Any] = {
        "slots": settings.slots,
        "queue": settings.queue,
        "step_budget": settings.step_budget_ms / 1000,
        "opus_complexity": settings.opus_complexity,
    }
    if settings.model == "synth:echo":
        return Engine.echo(**shared)
    return Engine(
        str(settings.model),
        warm_up=settings.warmup,
        progress=logged_progress(),
        **model_options.loading(settings),
        **shared,
    )


def logged_progress(clock: Callable[[], float] = time.monotonic) -> Progress:
    """A callback for work of which so much of so much is done. It writes a line to the server's log
    every `PROGRESS_SECONDS`, so that a model of many gigabytes is seen to load."""
    log = logging.getLogger("kaiwa.server")
    said = clock()

    def update(done: int, total: int) -> None:
        nonlocal said
        now = clock()
        if now - said >= PROGRESS_SECONDS:
            said = now
            log.info("loading the model: %d %%", 100 * done // max(total, 1))

    return update
