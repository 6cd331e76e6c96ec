"""What `/openapi.json` says, beyond what FastAPI finds out from the routes."""

from __future__ import annotations

import warnings
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from kaiwa import __version__

DESCRIPTION = (
    "What the server answers over HTTP. Calls themselves are websockets, which this format does "
    "not describe: see docs/server.md. Where the server asks for keys, a key is sent as "
    "`Authorization: Bearer ...`."
)


def install(app: FastAPI) -> None:
    """Has an application describe itself, once, when it is first asked."""

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _describe(app)
        return app.openapi_schema

    app.openapi = describe  # type: ignore[method-assign]


def _describe(app: FastAPI) -> dict[str, Any]:
    with warnings.catch_warnings():
        # Routes that take GET and HEAD are one operation with two names for FastAPI.
        warnings.filterwarnings("ignore", message="Duplicate Operation ID")
        schema = get_openapi(
            title="Kaiwa", version=__version__, description=DESCRIPTION, routes=app.routes
        )
    for methods in schema["paths"].values():
        methods.pop("head", None)
        for operation in methods.values():
            # No parameter of these routes can be malformed.
            operation["responses"].pop("422", None)
    parts = schema.setdefault("components", {})
    for name in ("HTTPValidationError", "ValidationError"):
        parts.get("schemas", {}).pop(name, None)
    parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return schema
