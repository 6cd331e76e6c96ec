"""Entry point: parses, runs the command, and turns errors into one line and an exit code.

Exit codes: 0 success, 1 failure, 2 wrong usage or bad input, 130 interrupted, 143 terminated.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Any, NoReturn

from kaiwa.cli.parser import build

EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


_REMEDIES = {
    errno.ENOSPC: "; make room, or choose another place",
    errno.EDQUOT: "; make room, or choose another place",
    errno.EROFS: "; choose a place that can be written to",
    errno.EACCES: "; choose another place, or give permission",
    errno.EMFILE: "; raise the limit of open files (ulimit -n)",
}


class Terminated(BaseException):
    """SIGTERM arrived: unwinds like Ctrl-C, so that temporary files are removed."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `kaiwa` with the given arguments (the process's own if None); returns the exit code."""
    _print_anything()
    try:
        args = build().parse_args(argv)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else EXIT_FAILURE
    # A failed download is reported in one line by us, not by warnings of the library.
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    in_main_thread = threading.current_thread() is threading.main_thread()
    before: Any = signal.signal(signal.SIGTERM, _terminate) if in_main_thread else None
    try:
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return _say("interrupted", EXIT_INTERRUPTED)
    except Terminated:
        return _say("terminated", EXIT_TERMINATED)
    except BrokenPipeError:
        # Whoever read our output went away: not a failure, but say no more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILURE
    except Exception as error:
        if getattr(args, "debug", False):
            raise
        return _say(f"error: {one_line(error)}", exit_code(error))
    finally:
        if in_main_thread:
            signal.signal(signal.SIGTERM, before)


def _print_anything() -> None:
    """Characters that a terminal or a log cannot show must not end a command: they are replaced."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _terminate(number: int, frame: object) -> NoReturn:
    """Handler of SIGTERM."""
    raise Terminated


def _say(text: str, code: int) -> int:
    """Prints a line on standard error and gives back `code`."""
    print(f"kaiwa: {text}", file=sys.stderr)
    return code


def exit_code(error: Exception) -> int:
    """2 if what was given is at fault, 1 if the attempt failed."""
    from kaiwa import errors
    from kaiwa.audio_files import AudioWriteError

    if isinstance(error, (errors.DownloadError, AudioWriteError)):
        return EXIT_FAILURE
    given = (errors.InputError, errors.AudioFileError, errors.CheckpointError)
    return EXIT_USAGE if isinstance(error, given) else EXIT_FAILURE


def one_line(error: Exception) -> str:
    """What an error says, without line breaks; unforeseen kinds are named."""
    from kaiwa.errors import KaiwaError

    if isinstance(error, OSError) and error.strerror:
        where = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror}{where}{_REMEDIES.get(error.errno or 0, '')}"
    text = " ".join(str(error).split())
    if isinstance(error, KaiwaError) and text:
        return text
    if isinstance(error, MemoryError):
        return "out of memory; use a smaller model or bfloat16"
    return f"{type(error).__name__}: {text} (run again with --debug for the place)"
