"""Whether the server lives, whether it can serve, and its metrics."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from server.core.services import Services, services
from server.http.schemas import native as schemas
from server.store import StoreError

router = APIRouter(tags=["health"])
With = Annotated[Services, Depends(services)]
PING_SECONDS = 2.0  # a probe gives up sooner than a request does
UNAVAILABLE: dict[int | str, dict[str, Any]] = {503: {"model": schemas.Health}}


@router.head("/livez", include_in_schema=False)  # as load balancers probe
@router.get("/livez")
async def livez() -> schemas.Health:
    """The process answers."""
    return schemas.Health(status="ok", checks={})


@router.head("/health", include_in_schema=False)
@router.head("/readyz", include_in_schema=False)
@router.get("/health", responses=UNAVAILABLE)
@router.get("/readyz", responses=UNAVAILABLE)
async def readyz(response: Response, served: With) -> schemas.Health:
    """The engine runs and takes requests, and the store answers; else 503."""
    checks = {
        "engine": "ok" if served.engine.is_ready else "not running",
        "queue": "full" if served.engine.is_full else "ok",
        "store": "ok",
    }
    try:
        async with asyncio.timeout(PING_SECONDS):
            await served.store.ping()
    except (StoreError, TimeoutError):
        checks["store"] = "unreachable"
    is_ok = all(check == "ok" for check in checks.values())
    response.status_code = 200 if is_ok else 503
    return schemas.Health(status="ok" if is_ok else "unavailable", checks=checks)


@router.get("/metrics", response_class=Response)
async def metrics(served: With) -> Response:
    """Prometheus' text format."""
    return Response(generate_latest(served.metrics.registry), media_type=CONTENT_TYPE_LATEST)
