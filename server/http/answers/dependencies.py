"""What handlers are given."""

from typing import Annotated, cast

from fastapi import Depends, Path, Request

from server.core.core import Core
from server.core.services import Services
from server.core.tenant import Tenant


def core(request: Request) -> Core:
    """The core of the app that received a request."""
    return cast(Core, request.app.state.core)


WithCore = Annotated[Core, Depends(core)]


def default_services(core: WithCore) -> Services:
    """Those of the model that is meant where a request names none."""
    return core.models.default


def tenant(core: WithCore) -> Tenant:
    """Whose request it is."""
    return core.tenant


WithServices = Annotated[Services, Depends(default_services)]
WithTenant = Annotated[Tenant, Depends(tenant)]
IdInPath = Annotated[str, Path(description="A summary's id, as /compress gave it.")]
