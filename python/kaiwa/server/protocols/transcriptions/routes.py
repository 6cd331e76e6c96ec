"""`POST /v1/audio/transcriptions`: a file in, its transcript out."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Coroutine
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from kaiwa.server.protocols import openai
from kaiwa.server.protocols.base import Services, WireProtocol
from kaiwa.server.protocols.transcriptions import answers
from kaiwa.server.protocols.transcriptions.form import MOST_FILE, Form, read_form
from kaiwa.server.protocols.transcriptions.sound import Sound
from kaiwa.server.protocols.transcriptions.upload import UploadChannel
from kaiwa.server.refusal import Refused
from kaiwa.server.schemas import Error
from kaiwa.words import Word, WordList

PATH = "/v1/audio/transcriptions"
#: Most bytes of a body: a file of that size, and what is around it.
MOST_BODY = MOST_FILE + (64 << 10)
#: Seconds between two looks at whether the client is still there.
LOOK_SECONDS = 0.5

_T = TypeVar("_T")

_FORM = {
    "type": "object",
    "required": ["file"],
    "properties": {
        "file": {"type": "string", "format": "binary", "description": "audio, at most 25 MB"},
        "model": {"type": "string"},
        "response_format": {"type": "string", "enum": list(answers.FORMATS), "default": "json"},
        "timestamp_granularities[]": {
            "type": "array",
            "items": {"type": "string", "enum": ["word", "segment"]},
        },
        "stream": {"type": "boolean", "default": False},
        "language": {"type": "string"},
        "prompt": {"type": "string"},
        "temperature": {"type": "number"},
    },
}


def add(router: APIRouter, services: Services, protocol: WireProtocol) -> None:
    """Adds the route.

    Args:
        router: where to.
        services: of the server.
        protocol: whose calls the requests lead.
    """

    @router.post(
        PATH,
        response_class=Response,
        responses={
            200: {"description": "the transcript, in the form that was asked for"},
            **{status: {"model": Error} for status in (400, 401, 403, 404, 413, 429, 503)},
        },
        openapi_extra={
            "security": [{"key": []}],
            "requestBody": {"content": {"multipart/form-data": {"schema": _FORM}}},
        },
        summary="The transcript of an audio file",
    )
    async def transcriptions(request: Request) -> Response:
        """A form with `file`; `response_format` is `json`, `text`, `srt`, `verbose_json` or `vtt`.
        `language`, `prompt` and `temperature` have no effect on this model."""
        channel = UploadChannel(request.headers, request.query_params, PATH)
        call = asyncio.create_task(services.run_call(protocol, channel))
        stack = contextlib.AsyncExitStack()
        stack.push_async_callback(_over, channel, call)
        stack.push_async_callback(request.close)
        try:
            await channel.let_in()
            form = await read_form(request)
            openai.check_model(form.model, services.info().model, also=("whisper-1",))
            folder = stack.enter_context(TemporaryDirectory(prefix="kaiwa-upload-"))
            sound = await Sound.open(form.file, Path(folder))
            stack.push_async_callback(sound.close)
            prefix = services.info().prefix_seconds
            if form.stream:
                words = _words(channel, sound, prefix, WordList(prefix))
                # The first word, or a refusal, which can then still be the answer.
                first = await _present(request, channel, anext(words, None))
                events = _server_events(stack.pop_all(), first, words)
                return StreamingResponse(events, media_type="text/event-stream")
            found = WordList(prefix)
            await _present(request, channel, _all(_words(channel, sound, prefix, found)))
            return _answer(form, found.words, sound.seconds)
        finally:
            await stack.aclose()


async def _over(channel: UploadChannel, call: asyncio.Task[None]) -> None:
    """The request is over, and so is its call."""
    channel.give_up()
    await asyncio.wait({call}, timeout=5)
    call.cancel()
    with contextlib.suppress(BaseException):
        await call


async def _present(
    request: Request, channel: UploadChannel, work: Awaitable[_T] | Coroutine[Any, Any, _T]
) -> _T:
    """What `work` gives, unless the client goes."""
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=LOOK_SECONDS)
            if not task.done() and await request.is_disconnected():
                channel.give_up()
    finally:
        task.cancel()
    return await task


async def _words(
    channel: UploadChannel, sound: Sound, prefix: float, found: WordList
) -> AsyncIterator[Word]:
    """Hands the file over and gives its words as they are recognised; their ends are only in
    `found`.

    Raises:
        Refused: There is no slot, the file is damaged, or the call ended too early.
    """
    feeding = asyncio.create_task(_feed(channel, sound, prefix))
    try:
        async for event in channel.events():
            word = found.add(event)
            if word is not None:
                yield word
    except Refused:
        if feeding.done() and (reason := feeding.exception()) is not None:
            # Why the call was given up.
            raise reason from None
        raise
    finally:
        feeding.cancel()
        with contextlib.suppress(asyncio.CancelledError, Refused):
            await feeding


async def _feed(channel: UploadChannel, sound: Sound, prefix: float) -> None:
    """Hands the samples of a file over."""
    try:
        await channel.begin()
        async for block in sound.blocks(prefix):
            await channel.put(block)
        await channel.finish()
    except BaseException:
        channel.give_up()
        raise


async def _all(words: AsyncIterator[Word]) -> None:
    """Waits for all words."""
    async for _ in words:
        pass


def _answer(form: Form, words: list[Word], seconds: float) -> Response:
    """The transcript in the form that was asked for."""
    if form.response_format == "json":
        return JSONResponse(answers.plain(words, seconds))
    if form.response_format == "verbose_json":
        told = answers.verbose(words, seconds, form.language, form.granularities)
        return JSONResponse(told)
    kinds = {"text": "text/plain", "srt": "application/x-subrip", "vtt": "text/vtt"}
    made = answers.as_text(words, form.response_format)
    return Response(made, media_type=f"{kinds[form.response_format]}; charset=utf-8")


async def _server_events(
    stack: contextlib.AsyncExitStack, first: Word | None, words: AsyncIterator[Word]
) -> AsyncIterator[str]:
    """The transcript as it is made: an event for each word, and the whole text at the end."""
    said: list[str] = []

    def event(kind: str, **members: Any) -> str:
        return f"data: {json.dumps({'type': kind, **members})}\n\n"

    async with stack:
        try:
            word = first
            while word is not None:
                said.append(word.text)
                lead = " " if len(said) > 1 else ""
                yield event("transcript.text.delta", delta=lead + word.text)
                word = await anext(words, None)
        except Refused as refused:
            yield event("error", **refused.body())
            return
        yield event("transcript.text.done", text=" ".join(said))
