"""Health and metrics: for infrastructure, which has no keys. Health names hosts as it likes."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from kaiwa.server import metrics, views
from kaiwa.server.routes.dependencies import ThisServer
from kaiwa.server.schemas import Health, Readiness

health = APIRouter(tags=["health"])
#: On one port only, so that a port of their own keeps metrics from callers.
prometheus = APIRouter(tags=["health"])

#: Balancers and people like to ask by HEAD.
READ = ["GET", "HEAD"]


@health.api_route(
    "/healthz",
    methods=READ,
    response_model=Health,
    responses={503: {"model": Health}},
    summary="Is the process well",
)
async def healthz(server: ThisServer, response: Response) -> dict[str, str]:
    """503 if the engine has failed or gives no sign of life. Says nothing about load."""
    fault = server.state.fault
    if fault is not None:
        response.status_code = 503
    return {"state": fault or "ok"}


@health.api_route(
    "/startupz",
    methods=READ,
    response_model=Health,
    responses={503: {"model": Health}},
    summary="Is the model loaded",
)
async def startupz(server: ThisServer, response: Response) -> dict[str, str]:
    """503 while the model loads; afterwards as `/healthz`."""
    if server.state.engine is None:
        response.status_code = 503
        return {"state": "starting"}
    return await healthz(server, response)


@health.api_route(
    "/readyz",
    methods=READ,
    response_model=Readiness,
    responses={503: {"model": Readiness}},
    summary="Is there room for one more",
)
async def readyz(server: ThisServer, response: Response) -> dict[str, Any]:
    """503 with `Retry-After` unless one caller more would be taken."""
    body = views.readiness(server)
    if body["state"] != "ready":
        response.status_code = 503
        response.headers["Retry-After"] = "5"
    return body


@prometheus.api_route(
    "/metrics", methods=READ, response_class=Response, summary="Metrics for Prometheus"
)
async def scrape(server: ThisServer, request: Request) -> Response:
    """Text in Prometheus' form; see docs/metrics.md. Refused under a name of others."""
    server.access.check_host(request.headers)
    return Response(server.metrics.text(), media_type=metrics.CONTENT_TYPE)
