"""Whether the server lives, whether it can serve, and its metrics."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, HTTPException, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from server.errors import ServiceError, StoreExhausted
from server.http.answers.callers import require_admin
from server.http.answers.dependencies import WithCore
from server.http.routing import Route
from server.http.schemas import models as schemas

logger = logging.getLogger(__name__)

router = APIRouter(route_class=Route, tags=["health"])
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
async def readyz(request: Request, response: Response, core: WithCore) -> schemas.Health:
    """The engine runs and takes requests, and the store answers and has room; else 503.

    `checks` tells of each part whether it is `ok`, or what is wrong with it. A queue that is `full` is load alone.
    """
    engines = [engine for each in core.models.by_name.values() for engine in (each.encoder, each.decoder)]
    checks = {
        "engine": "ok" if all(engine.is_ready for engine in engines) else "not running",
        "server": "stopping" if core.is_stopping.is_set() else "ok",
        "queue": "full" if any(engine.is_full for engine in engines) else "ok",
        "store": "ok",
    }
    try:
        async with asyncio.timeout(PING_SECONDS):
            await core.models.default.summaries.ping()
    except StoreExhausted:
        checks["store"] = "full"
    except (ServiceError, TimeoutError):
        checks["store"] = "unreachable"
    # a full queue is load, not a fault to be restarted for
    faults = {name: check for name, check in checks.items() if check != "ok" and name != "queue"}
    _tell_of_change(request, faults)
    is_ok = not faults
    response.status_code = 200 if is_ok else 503
    return schemas.Health(status="ok" if is_ok else "unavailable", checks=checks)


def _tell_of_change(request: Request, faults: Mapping[str, str]) -> None:
    """Log what is not ready where that has changed: whoever probes sees a status alone, and throws the rest away."""
    state = request.app.state
    if faults == state.faults:
        return
    state.faults = faults
    if faults:
        logger.warning("not ready: %s", ", ".join(f"{name} {fault}" for name, fault in faults.items()))
    else:
        logger.warning("ready again")


@router.get("/metrics", response_class=Response)
async def metrics(request: Request, core: WithCore) -> Response:
    """Prometheus' text format. Where keys are asked for, an admin's alone: they are figures of all tenants together."""
    if core.settings.metrics_port is not None:
        raise HTTPException(404)
    require_admin(request.scope)
    return Response(generate_latest(core.metrics.registry), media_type=CONTENT_TYPE_LATEST)
