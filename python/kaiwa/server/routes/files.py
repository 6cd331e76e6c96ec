"""The files of the pages, as browsers get them."""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import FileResponse, Response
from starlette.staticfiles import NotModifiedResponse, StaticFiles
from starlette.types import Scope

#: Pages load nothing from elsewhere and cannot be framed. Browsers ask each time whether a file is
#: still the same, so that after an update no new page runs with old modules.
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; connect-src 'self' ws: wss:; "
    "img-src 'self' data:; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class PageFiles(StaticFiles):
    """A folder of files, recognised by what is in them.

    Their times tell nothing: an image of containers may give every file of every version the same
    one, and an older version that is put back has older ones.
    """

    def file_response(
        self,
        full_path: str | os.PathLike[str],
        stat_result: os.stat_result,
        scope: Scope,
        status_code: int = 200,
    ) -> Response:
        """A file, or that it is still the same."""
        response = FileResponse(full_path, status_code=status_code, stat_result=stat_result)
        response.headers.update(HEADERS)
        del response.headers["Last-Modified"]
        key = (stat_result.st_mtime_ns, stat_result.st_size, stat_result.st_ino)
        response.headers["ETag"] = _tag(os.fspath(full_path), key)
        if self.is_not_modified(response.headers, Headers(scope=scope)):
            return NotModifiedResponse(response.headers)
        return response


@lru_cache(maxsize=256)
def _tag(path: str, stamp: tuple[Any, ...]) -> str:
    """The name of a file's content; computed anew when the file has changed."""
    del stamp
    return f'"{hashlib.sha256(Path(path).read_bytes()).hexdigest()[:32]}"'
