"""What Kyutai's server tells about itself over HTTP, for monitoring that was made for it."""

from __future__ import annotations

from fastapi import APIRouter, Request

from kaiwa.server.protocols.base import Services
from kaiwa.server.protocols.kyutai import messages


def add(router: APIRouter, services: Services, path: str) -> None:
    """Adds the routes.

    Args:
        router: where to.
        services: tell about the server.
        path: where the calls of the protocol are opened.
    """

    @router.get("/api/build_info")
    async def build_info(request: Request) -> dict[str, str]:
        """Facts of the build; empty where this server has none."""
        services.check_page(request.headers)
        info = services.info()
        return {**messages.build_info(info.version), "git_hash": info.revision}

    @router.get("/api/modules_info")
    async def modules_info(request: Request) -> list[dict[str, str]]:
        """The models that are served; all values are strings, as in Kyutai's server."""
        services.check_page(request.headers)
        info = services.info()
        transcribes = info.task == "transcription"
        return [
            {
                "type": "batched_asr" if transcribes else "lm",
                "path": "/api/asr-streaming" if transcribes else path,
                "used_slots": str(info.slots_used),
                "total_slots": str(info.slots_total),
                "lm": info.model,
                "audio_tokenizer": "mimi",
            }
        ]
