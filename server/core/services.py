"""What handlers work with, built by `app` and handed on."""

from dataclasses import dataclass
from typing import cast

from fastapi import Request

from server.core.documents.compression import Compressor
from server.core.documents.intake import Intake
from server.core.documents.portable import Portable
from server.core.documents.summaries import Summaries
from server.core.jobs import Jobs
from server.core.prompts.expansion import Expander
from server.core.prompts.fusing import Fuser
from server.core.prompts.prompting import Prompter
from server.core.prompts.window import Endless
from server.core.reranking import Reranker
from server.core.served_model import ServedModel
from server.engine.protocol import Engine
from server.metrics import Metrics
from server.settings import Settings
from server.store import SummaryStore


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
