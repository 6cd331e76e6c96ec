"""The pages for people, and their files."""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter
from fastapi.responses import FileResponse
from starlette.routing import Mount

from kaiwa.server.routes.files import HEADERS, PageFiles

STATIC = str(files("kaiwa.server") / "static")

READ = ["GET", "HEAD"]

router = APIRouter(include_in_schema=False)


def _file(name: str) -> FileResponse:
    return FileResponse(f"{STATIC}/{name}", headers=HEADERS)


@router.api_route("/", methods=READ)
async def index() -> FileResponse:
    """The page for a call."""
    return _file("index.html")


@router.api_route("/ops", methods=READ)
async def ops() -> FileResponse:
    """The operator's page."""
    return _file("ops.html")


@router.api_route("/docs", methods=READ)
async def docs() -> FileResponse:
    """The HTTP routes, as a page made of `/openapi.json`."""
    return _file("api.html")


@router.get("/favicon.ico")
async def icon() -> FileResponse:
    """The icon, where browsers look for one."""
    return _file("icon.svg")


def static() -> Mount:
    """The files of the pages."""
    return Mount("/static", PageFiles(directory=STATIC), name="static")
