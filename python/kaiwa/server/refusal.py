"""Why a request is refused, in a form that HTTP and the protocols can tell."""

from __future__ import annotations

from typing import Any

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    426: "invalid_request_error",
    429: "rate_limit_error",
}


class Refused(Exception):  # noqa: N818
    """A request is not let in.

    Attributes:
        status: HTTP status: 401 (who are you), 403 (not you), 429 (not now), 503 (not here).
        code: a word for programs.
        message: one sentence for people: what was wrong and what to do. Holds nothing secret.
        retry_after: whole seconds after which another attempt makes sense; None if none does.
    """

    def __init__(
        self, status: int, code: str, message: str, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after = retry_after

    def __repr__(self) -> str:
        return f"Refused({self.status}, {self.code!r})"

    def body(self) -> dict[str, Any]:
        """The answer as JSON."""
        kind = _TYPES.get(self.status, "server_error")
        error = {"type": kind, "code": self.code, "message": self.message, "param": None}
        return {"error": error}

    def headers(self) -> dict[str, str]:
        """Headers of the answer."""
        headers = {"Cache-Control": "no-store"}
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return headers
