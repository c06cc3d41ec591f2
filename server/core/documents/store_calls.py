"""Calls to the store: timed, their failures logged, and told as the client is to hear them."""

import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cachetools import LRUCache

from server.core.served_model import ServedModel
from server.errors import Internal, NotReady, QuotaReached, ServiceError, StoreExhausted
from server.metrics import Metrics
from server.store import EntryChanged, MissingReferences, QuotaExceeded, StoreError, StoreFull, StoreUnavailable
from server.store.codec import CorruptRecord, FingerprintMismatch

logger = logging.getLogger(__name__)

SECONDS_BETWEEN = 10.0  # two lines of one kind of failure
MAX_DAMAGED = 10_000  # records that are remembered


class StoreCalls:
    """Stands around each call to the store, and logs what is wrong with it, each kind of it once in a while.

    Attributes:
        damaged_keys: of records that were found damaged and not put again since.
    """

    def __init__(self, metrics: Metrics, model: ServedModel | None = None) -> None:
        """`model`: whose records are read; None where they are of no model."""
        self.damaged_keys: LRUCache[str, None] = LRUCache(MAX_DAMAGED)
        self._metrics = metrics
        self._model = model
        self._logged_at: dict[str, float] = {}
        self._num_unsaid: dict[str, int] = {}

    @asynccontextmanager
    async def __call__(
        self, operation: str, *, param: str | None = None, damaged: type[ServiceError] = Internal
    ) -> AsyncIterator[None]:
        """Around one call; `MissingReferences` and `EntryChanged` are the caller's to understand.

        `param` names the field that the id came from, for the error of a record that another model made, `damaged` is
        what a damaged record is for whoever asked.
        """
        with self._metrics.store_seconds.labels(operation=operation).time():
            try:
                yield
            except (MissingReferences, EntryChanged):
                raise
            except QuotaExceeded as error:  # the caller's, no failure of the store
                raise QuotaReached(
                    f"with this what you have stored would have {error.size_bytes} bytes, and the limit of your "
                    f"tenant, stored_bytes, is {error.max_bytes}; delete summaries or responses to make room"
                ) from error
            except FingerprintMismatch as error:  # a client's stale id, no failure of the store
                assert self._model is not None
                raise self._model.mismatch("the summary", error.stored, param=param) from error
            except StoreError as error:
                self._metrics.store_errors.labels(operation=operation, reason=_reason(error)).inc()
                self.warn(f"{operation} {type(error).__name__}", f"the store failed to {operation}: {error}")
                if isinstance(error, CorruptRecord):
                    self._metrics.damaged_records.inc()
                    raise damaged("a stored record is damaged; send what it was made of again", param=param) from error
                raise _as_service_error(error) from error

    def damaged(self, kind: str, message: str) -> None:
        """Count and tell of a damaged record in whose place another is made."""
        self._metrics.damaged_records.inc()
        self.warn(kind, message)

    def lost(self, kind: str, message: str) -> None:
        """Count and tell of a summary whose segments the store removed by itself."""
        self._metrics.lost_summaries.inc()
        self.warn(kind, message)

    def warn(self, kind: str, message: str) -> None:
        """Log this unless something of its kind was told just now: those are counted for the next line."""
        now = time.monotonic()
        if now - self._logged_at.get(kind, -SECONDS_BETWEEN) < SECONDS_BETWEEN:
            self._num_unsaid[kind] = self._num_unsaid.get(kind, 0) + 1
            return
        self._logged_at[kind] = now
        num_unsaid = self._num_unsaid.pop(kind, 0)
        logger.warning("%s (%d more not told)", message, num_unsaid)


def _reason(error: StoreError) -> str:
    """Why a call failed, as the metrics have it."""
    kinds = {StoreFull: "full", StoreUnavailable: "unavailable", CorruptRecord: "damaged"}
    return next((reason for kind, reason in kinds.items() if isinstance(error, kind)), "other")


def _as_service_error(error: StoreError) -> ServiceError:
    if isinstance(error, StoreFull):
        return StoreExhausted("the store has no room for another summary")
    if isinstance(error, StoreUnavailable):
        return NotReady("the store of summaries cannot be reached")
    return Internal(f"the store failed: {type(error).__name__}")
