"""What admins' keys may do."""

from typing import Annotated

from fastapi import APIRouter, Path, Request

from server.core.callers.access import Access
from server.core.callers.visit import note
from server.core.core import Core
from server.errors import KeyNotFound
from server.http.answers.callers import require_admin
from server.http.answers.dependencies import WithCore
from server.http.answers.errors import possible_errors
from server.http.routing import Route
from server.http.schemas import admin as schemas
from server.http.schemas.errors import ErrorResponse

ERRORS = possible_errors() | {403: {"model": ErrorResponse}}
router = APIRouter(route_class=Route, prefix="/admin", tags=["admin"], responses=ERRORS)


@router.get("/usage")
async def usage(request: Request, core: WithCore) -> schemas.UsageResponse:
    """What each key has done."""
    access = _access(request, core)
    revoked = await access.revoked()
    tenants = {account.tenant for account in access.accounts}
    stored = {tenant: await core.records.size_bytes(tenant) for tenant in tenants}
    return schemas.UsageResponse(
        since=int(access.since),
        unauthorized=access.unauthorized,
        keys=[
            schemas.KeyUsage(
                name=account.key.name,
                tenant=account.key.tenant_name,
                admin=account.key.admin,
                revoked=account.key.sha256 in revoked,
                requests=account.usage.requests,
                tokens=account.usage.tokens,
                refused=account.usage.refused,
                running=account.running,
                stored_bytes=stored[account.tenant],
                stored_bytes_limit=account.key.stored_bytes,
            )
            for account in access.accounts
        ],
    )


@router.post("/keys/{name}/revoke")
async def revoke(
    name: Annotated[str, Path(description="A key's name, as its entry has it.")], request: Request, core: WithCore
) -> schemas.RevokedResponse:
    """Let nobody in by this key any more, also after a restart, and by the server's replicas within seconds.

    Requests that are being answered end as they would have. Another key of the same tenant sees the same documents.
    """
    access = _access(request, core)
    key = await access.revoke(name)
    note("revoked", key.name)
    return schemas.RevokedResponse(name=key.name, revoked=True)


def _access(request: Request, core: Core) -> Access:
    """Raises Forbidden for keys that are no admin's, KeyNotFound where the server has none."""
    require_admin(request.scope)
    if core.access is None:
        raise KeyNotFound("this server has no keys: the setting api_keys names them")
    return core.access
