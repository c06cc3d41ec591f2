"""What handlers work with, built by `app` and handed on."""

from dataclasses import dataclass
from typing import cast

from fastapi import Request

from server.compression import Compressor
from server.endless import Endless
from server.engine.protocol import Engine
from server.expansion import Expander
from server.fusing import Fuser
from server.intake import Intake
from server.jobs import Jobs
from server.metrics import Metrics
from server.portable import Portable
from server.prompting import Prompter
from server.reranking import Reranker
from server.served_model import ServedModel
from server.settings import Settings
from server.store import SummaryStore
from server.summaries import Summaries


@dataclass(frozen=True)
class Services:
    """One running server's parts."""

    settings: Settings
    model: ServedModel
    engine: Engine
    store: SummaryStore
    summaries: Summaries
    compressor: Compressor
    prompter: Prompter
    endless: Endless
    expander: Expander
    fuser: Fuser
    intake: Intake
    reranker: Reranker
    portable: Portable
    jobs: Jobs
    metrics: Metrics


def services(request: Request) -> Services:
    """The parts of the app that received a request; a FastAPI dependency."""
    return cast(Services, request.app.state.services)
