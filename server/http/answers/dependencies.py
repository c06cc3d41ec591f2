"""What handlers are given; coroutines, as FastAPI has a thread run each plain function."""

from typing import Annotated, cast

from fastapi import Depends, Path
from starlette.requests import HTTPConnection

from server.core.core import Core
from server.core.tenant import Tenant
from server.http.answers.callers import bearer, visit_of


async def core(request: HTTPConnection) -> Core:
    """The core of the app that received a request."""
    return cast(Core, request.app.state.core)


WithCore = Annotated[Core, Depends(core)]


async def tenant(request: HTTPConnection, core: WithCore) -> Tenant:
    """Whose request it is: that of the caller's key; where nobody checks keys, of all who send none, too."""
    visit = visit_of(request.scope)
    if visit is not None:
        return visit.account.tenant
    key = bearer(request.headers)
    return core.tenant if key is None else core.tenant.of_key(key)


WithTenant = Annotated[Tenant, Depends(tenant)]
IdInPath = Annotated[str, Path(description="A summary's id, as /compress gave it.")]
