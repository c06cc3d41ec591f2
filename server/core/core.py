"""A running server without HTTP."""

from dataclasses import dataclass, field
from threading import Event

from server.core.callers.access import Access
from server.core.corpora.corpus import Corpora
from server.core.jobs.jobs import Jobs
from server.core.models import Models
from server.core.responses.records import Records
from server.core.tenant import Tenant
from server.metrics import Metrics
from server.settings import Settings
from server.store import SummaryStore


@dataclass(frozen=True, kw_only=True)
class Core:
    """The models that are served, and what they share.

    Attributes:
        tenant: of every call that sends no key; those of callers with keys are made of it.
        access: who is let in; None where nobody's key is checked.
        is_stopping: set when the server was told to; what runs is finished.
    """

    settings: Settings
    models: Models
    store: SummaryStore
    records: Records
    jobs: Jobs
    metrics: Metrics
    tenant: Tenant
    access: Access | None = None
    corpora: Corpora = field(default_factory=Corpora)
    is_stopping: Event = field(default_factory=Event)
