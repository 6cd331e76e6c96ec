"""The form of a request for a transcription."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Request, UploadFile
from starlette.datastructures import FormData
from starlette.datastructures import UploadFile as StarletteFile
from starlette.exceptions import HTTPException

from kaiwa.server.protocols.transcriptions import answers
from kaiwa.server.refusal import Refused

#: Most bytes of a file, as with OpenAI.
MOST_FILE = 25 << 20
#: Most fields beside it, and bytes of each.
MOST_FIELDS, MOST_FIELD = 32, 64 << 10
#: What `timestamp_granularities[]` may hold.
GRANULARITIES = ("word", "segment")


@dataclass(frozen=True)
class Form:
    """What is asked for."""

    file: UploadFile | StarletteFile
    model: str | None
    #: One of `answers.FORMATS`.
    response_format: str
    #: Some of :data:`GRANULARITIES`.
    granularities: tuple[str, ...]
    #: Of the audio, as the client says; it has no effect.
    language: str | None
    stream: bool


async def read_form(request: Request) -> Form:
    """Reads the body of a request.

    Raises:
        Refused: 400 or 413; it is not such a form.
    """
    kind = request.headers.get("content-type", "")
    if not kind.lower().startswith("multipart/form-data"):
        raise Refused(
            400, "bad_parameter", "send a form (multipart/form-data) with the audio in its file"
        )
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > MOST_FILE + (64 << 10):
        raise _too_large()
    try:
        form = await request.form(max_files=1, max_fields=MOST_FIELDS, max_part_size=MOST_FIELD)
    except HTTPException as error:
        raise Refused(400, "bad_parameter", f"the form cannot be read ({error.detail})") from None
    return _checked(form)


def _checked(form: FormData) -> Form:
    file = form.get("file")
    if not isinstance(file, StarletteFile):
        raise Refused(400, "bad_parameter", "the form has no file; add the audio as `file`")
    if file.size is not None and file.size > MOST_FILE:
        raise _too_large()
    if not file.size:
        raise Refused(400, "bad_parameter", "the file is empty; send one with audio")
    wanted = _text(form, "response_format") or "json"
    if wanted not in answers.FORMATS:
        raise _bad("response_format", wanted, ", ".join(answers.FORMATS))
    stream = _flag(form, "stream")
    if stream and wanted not in ("json", "text"):
        raise Refused(
            400, "bad_parameter", f"stream cannot be {wanted}; ask for json, or do not stream"
        )
    asked = [
        value
        for name in ("timestamp_granularities[]", "timestamp_granularities")
        for value in form.getlist(name)
        if isinstance(value, str)
    ]
    for value in asked:
        if value not in GRANULARITIES:
            raise _bad("timestamp_granularities", value, " or ".join(GRANULARITIES))
    temperature = _text(form, "temperature")
    if temperature:
        try:
            float(temperature)
        except ValueError:
            raise _bad("temperature", temperature, "a number") from None
    return Form(
        file=file,
        model=_text(form, "model"),
        response_format=wanted,
        granularities=tuple(dict.fromkeys(asked)) or ("segment",),
        language=_text(form, "language"),
        stream=stream,
    )


def _text(form: FormData, name: str) -> str | None:
    value = form.get(name)
    if value is None or isinstance(value, str):
        return value or None
    raise Refused(400, "bad_parameter", f"{name} is a file; send it as text")


def _flag(form: FormData, name: str) -> bool:
    value = (_text(form, name) or "false").lower()
    if value not in ("true", "false", "1", "0"):
        raise _bad(name, value, "true or false")
    return value in ("true", "1")


def _bad(name: str, value: str, wanted: str) -> Refused:
    shown = value[:40].encode("ascii", "backslashreplace").decode()
    return Refused(400, "bad_parameter", f"{name} is '{shown}'; use {wanted}, or leave it out")


def _too_large() -> Refused:
    return Refused(
        413, "too_large", "the file is larger than 25 MB; compress it, or send it in parts"
    )
