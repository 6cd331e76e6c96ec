"""`kaiwa chat [URL]`: a call with this machine's microphone and loudspeaker."""

from __future__ import annotations

import argparse
import contextlib
from typing import TYPE_CHECKING, Any

from kaiwa.cli import chat_options, options
from kaiwa.terminal import progress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kaiwa.client.sound import SoundCard

PORT = 8998
DEFAULT_URL = f"ws://127.0.0.1:{PORT}"

#: Seconds between two drawings of the meters.
REFRESH = 0.1
#: Seconds that a call goes on without a sound device.
WITHOUT_DEVICES = 10.0


def add_parser(commands: Any) -> None:
    """Adds the command to the program's parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "chat",
        help="talk to a server with microphone and loudspeaker",
        description="Talk to a running server, or, if none is named and none runs on this "
        "machine, to a model loaded for the call. Use headphones: through a loudspeaker the model "
        "hears itself. The key m mutes the microphone, q or Ctrl-C ends the call. Needs the extra "
        "kaiwa[chat] and the PortAudio library.",
    )
    chat_options.add_connection(parser, default=DEFAULT_URL)
    parser.add_argument(
        "--model",
        metavar="SOURCE",
        help="load this model for the call and ask no other server: a repository, a folder or a "
        "file (default without a server: the variable KAIWA_MODEL, else the small demo model)",
    )
    chat_options.add_sampling(parser)
    group = parser.add_argument_group("sound")
    group.add_argument(
        "--microphone", metavar="DEVICE", help="number or name (default: the system's)"
    )
    group.add_argument(
        "--loudspeaker", metavar="DEVICE", help="number or name (default: the system's)"
    )
    group.add_argument("--devices", action="store_true", help="list the devices and end")
    options.add_output(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Converses; see the parser for the arguments."""
    import asyncio

    from kaiwa.client import sound
    from kaiwa.errors import InputError

    if args.url and args.model:
        raise InputError("URL names a server and --model asks for none; give one of the two")
    if args.devices:
        print(sound.sounddevice().query_devices())
        return 0
    talk = _Talk(args)
    with _server(args):
        try:
            asyncio.run(talk.call())
        except KeyboardInterrupt:
            talk.end = "ended by Ctrl-C"
    progress.summary(talk.summary(), quiet=args.quiet)
    return 0


@contextlib.contextmanager
def _server(args: argparse.Namespace) -> Iterator[None]:
    """Sees to it that `args.url` names a server: the one that was named, the one that runs here,
    or one started for this call."""
    from kaiwa.cli import lm_options
    from kaiwa.client import own_server

    if args.url or (not args.model and _runs_here()):
        args.url = args.url or DEFAULT_URL
        yield
        return
    source = lm_options.source_of(args)
    with contextlib.ExitStack() as stack:
        with progress.bar(f"loading {source}", None, quiet=args.quiet):
            server = stack.enter_context(
                own_server.serving("--model", source, "--slots", "1", seconds=None)
            )
        args.url = server.url
        yield


def _runs_here() -> bool:
    """Whether something listens at the default address."""
    import socket

    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", PORT), timeout=1):
        return True
    return False


class _Talk:
    """One call, and the summary that is printed at its end."""

    def __init__(self, args: argparse.Namespace) -> None:
        from kaiwa.client import sound

        self.args = args
        self.end = "ended"
        self.seconds = 0.0
        self.dropped = 0
        self._live: Any = None
        self._card: SoundCard = sound.SoundCard(
            self._microphone, sound.device(args.microphone), sound.device(args.loudspeaker)
        )

    def _microphone(self, pcm: Any) -> None:
        """Called by the sound card's thread."""
        if self._live is not None:
            self._live.microphone(pcm)

    async def call(self) -> None:
        """The call from connecting to its end."""
        import time

        from kaiwa.cli import keypress
        from kaiwa.cli.captions import Captions
        from kaiwa.client import connect
        from kaiwa.client.live import LiveCall

        def queued(position: int | None) -> None:
            where = "" if position is None else f", position {position}"
            progress.summary(f"waiting for a slot{where}", quiet=self.args.quiet)

        async with connect(
            **chat_options.connection(self.args),
            params=chat_options.params(self.args),
            on_queue=queued,
        ) as chat:
            began = time.perf_counter()
            with Captions() as captions:
                live = LiveCall(chat, play=self._card.play, on_text=captions.say)
                self._live = live
                try:
                    with self._card, keypress.pressed(self._key) as can:
                        hint = "m: mute, q: end" if can else "Ctrl-C: end"
                        await self._watch(live, captions, hint)
                finally:
                    self.seconds = time.perf_counter() - began
                    self.dropped = live.dropped
                    self._live = None
            await chat.close()
            if chat.close_reason:
                self.end = f"ended by the server ({chat.close_reason})"

    async def _watch(self, live: Any, captions: Any, hint: str) -> None:
        """Lets the call run and draws the meters."""
        import asyncio

        self._over = asyncio.Event()
        running = asyncio.create_task(live.run())
        over = asyncio.create_task(self._over.wait())
        try:
            while not running.done() and not over.done():
                captions.note = f"muted, {hint}" if live.muted else hint
                captions.levels(live.heard, live.said)
                await asyncio.wait(
                    {running, over}, timeout=REFRESH, return_when=asyncio.FIRST_COMPLETED
                )
                if self._card.gone:
                    captions.note = "the microphone or the loudspeaker is gone: taking another"
                    captions.levels(live.heard, live.said)
                    await self._take_another({running, over})
            if running.done():
                running.result()
        finally:
            running.cancel()
            over.cancel()
            await asyncio.gather(running, over, return_exceptions=True)

    async def _take_another(self, ends: set[Any]) -> None:
        """Goes on with other devices after one was pulled out, which may take the system a while.

        Args:
            ends: tasks, one of which ends with the call.

        Raises:
            DeviceError: there are none for some time.
        """
        import asyncio
        import time

        from kaiwa.errors import DeviceError

        until = time.monotonic() + WITHOUT_DEVICES
        while not any(task.done() for task in ends):
            try:
                await asyncio.to_thread(self._card.reopen)
            except DeviceError as error:
                if time.monotonic() > until:
                    raise DeviceError(
                        f"the microphone or the loudspeaker was pulled out, and there is no other: "
                        f"{error}"
                    ) from None
                await asyncio.wait(ends, timeout=0.5, return_when=asyncio.FIRST_COMPLETED)
            else:
                return

    def _key(self, key: str) -> None:
        """A key was pressed."""
        if key in "mM" and self._live is not None:
            self._live.muted = not self._live.muted
        elif key in "qQ":
            self._over.set()

    def summary(self) -> str:
        """How the call went."""
        speaker = self._card.speaker
        return (
            f"{self.end} after {self.seconds:.0f} s; {speaker.underruns} gaps in the answer, "
            f"{speaker.dropped * 1e3:.0f} ms of it cut, {self.dropped} frames not sent"
        )
