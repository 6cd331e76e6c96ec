"""A public https address for a server: by cloudflared where it is installed, or gradio's client.

Browsers let a page use the microphone only if it comes by https or from the same machine, so
people on other machines need such an address.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import re
import shutil
from typing import Any, Protocol

from kaiwa.errors import KaiwaError

#: Seconds in which a tunnel must have told its address.
OPEN_SECONDS = 30.0
_ADDRESS = re.compile(rb"https://[a-z0-9-]+\.trycloudflare\.com")


class Tunnel(Protocol):
    """A running tunnel."""

    url: str

    async def stop(self) -> None:
        """Closes the tunnel."""


def check() -> None:
    """Checks that something here can make a tunnel, before a model is loaded in vain.

    Raises:
        KaiwaError: nothing can.
    """
    if shutil.which("cloudflared") is None and importlib.util.find_spec("gradio") is None:
        raise KaiwaError(
            "--tunnel needs cloudflared on the PATH, or the package gradio (pip install gradio); "
            "install one of them, or leave out --tunnel"
        )


async def start(port: int, secure: bool) -> Tunnel:
    """Opens a tunnel to a port of this machine.

    Raises:
        KaiwaError: nothing that makes tunnels is installed, or it did not work.
    """
    check()
    program = shutil.which("cloudflared")
    if program is not None:
        return await _Cloudflared.start(program, port, secure)
    from gradio import networking

    return await asyncio.to_thread(_Gradio, networking, port)


class _Cloudflared:
    """A quick tunnel of cloudflared."""

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self._process = process
        self.url = url
        self._drain = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, program: str, port: int, secure: bool) -> _Cloudflared:
        scheme = "https" if secure else "http"
        process = await asyncio.create_subprocess_exec(
            program,
            "tunnel",
            "--no-tls-verify",
            "--url",
            f"{scheme}://127.0.0.1:{port}",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            url = await asyncio.wait_for(_address(process), OPEN_SECONDS)
        except asyncio.TimeoutError:
            url = None
        if url is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            raise KaiwaError(
                "cloudflared gave no address; run `cloudflared tunnel --url "
                f"http://127.0.0.1:{port}` to see why"
            )
        return cls(process, url)

    async def _read(self) -> None:
        """Reads what the program writes, so that the pipe does not fill and stop it."""
        stream = self._process.stderr
        while stream is not None and await stream.read(4096):
            pass

    async def stop(self) -> None:
        """Closes the tunnel."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        await self._process.wait()
        self._drain.cancel()


async def _address(process: asyncio.subprocess.Process) -> str | None:
    """The tunnel's public address, from what the program writes; None if it writes none."""
    stream = process.stderr
    while stream is not None and (line := await stream.readline()):
        found = _ADDRESS.search(line)
        if found:
            return found[0].decode("ascii")
    return None


class _Gradio:
    """A tunnel of gradio's own service."""

    def __init__(self, networking: Any, port: int) -> None:
        import secrets

        try:
            self.url = str(
                networking.setup_tunnel(
                    local_host="127.0.0.1",
                    local_port=port,
                    share_token=secrets.token_urlsafe(32),
                    share_server_address=None,
                    share_server_tls_certificate=None,
                )
            )
        except Exception as error:
            raise KaiwaError(
                f"gradio's tunnel did not open: {error}; try again, or install cloudflared"
            ) from error

    async def stop(self) -> None:
        """Does nothing: the tunnel ends with the process."""
