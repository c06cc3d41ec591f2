"""The application over a core that is opened for it; to import this brings torch, which takes seconds."""

import logging
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from fastapi import FastAPI

from server.core.build import open_core
from server.core.core import Core
from server.http.app import create_app
from server.http.starting import CannotServe
from server.settings import Settings
from server.store import StoreError, shown_url

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

logger = logging.getLogger(__name__)


async def open_app(
    settings: Settings, opened: AsyncExitStack, *, tracer: "Tracer | None" = None
) -> tuple[Core, FastAPI]:
    """Open the core, until `opened` closes, and make the application over it.

    Raises:
        CannotServe: a part cannot be built from these settings.
    """
    try:
        core = await opened.enter_async_context(open_core(settings))
    except (ValueError, OSError, StoreError) as error:
        raise CannotServe(str(error)) from error
    for each in core.models.each:
        model, store = each.model, shown_url(settings.store)
        logger.info("%s on %s in %s, summaries in %s", model.name, model.device, model.dtype, store)
    return core, create_app(core, tracer=tracer)
