"""Whether the server lives, whether it can serve, and its metrics."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import APIRouter, HTTPException, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from server.core.models import Models
from server.engine.protocol import Decoder, Encoder
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

    `checks` tells of each part whether it is `ok`, or what is wrong with it, and where several models are served with
    which. A queue that is `full` is load alone.
    """
    checks = {
        "engine": _check(core.models, "not running", lambda engine: not engine.is_ready),
        "server": "stopping" if core.is_stopping.is_set() else "ok",
        "queue": _check(core.models, "full", lambda engine: engine.is_full),
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


def _check(models: Models, fault: str, has_fault: Callable[[Encoder | Decoder], bool]) -> str:
    """`ok`, or what is wrong with an engine; of several models, with the names of those whose it is."""
    services = models.each
    faulty = [each.model.name for each in services if has_fault(each.encoder) or has_fault(each.decoder)]
    if not faulty:
        return "ok"
    return fault if len(services) == 1 else f"{fault}: {', '.join(faulty)}"


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
