"""Calls to the store: timed, and their errors said as the client is to hear them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from server.errors import Internal, ModelMismatch, NotReady, ServiceError, StoreExhausted
from server.metrics import Metrics
from server.store import EntryChanged, MissingReferences, StoreError, StoreFull, StoreUnavailable
from server.store.codec import CorruptRecord, FingerprintMismatch


@asynccontextmanager
async def store_call(metrics: Metrics, operation: str, *, param: str | None = None) -> AsyncIterator[None]:
    """Around a call to the store; `MissingReferences` and `EntryChanged` are the caller's to understand.

    `param` names the field that the id came from, for the error of a record that another model made.
    """
    with metrics.store_seconds.labels(operation=operation).time():
        try:
            yield
        except (MissingReferences, EntryChanged):
            raise
        except FingerprintMismatch as error:  # a client's stale id, no failure of the store
            raise ModelMismatch(f"the summary is of another model than the one served: {error}", param=param) from error
        except StoreError as error:
            metrics.store_errors.labels(operation=operation).inc()
            raise _as_service_error(error) from error


def _as_service_error(error: StoreError) -> ServiceError:
    if isinstance(error, StoreFull):
        return StoreExhausted("the store has no room for another summary")
    if isinstance(error, StoreUnavailable):
        return NotReady("the store of summaries cannot be reached")
    if isinstance(error, CorruptRecord):
        return Internal("a stored record is damaged; delete the summary and compress its document again")
    return Internal(f"the store failed: {type(error).__name__}")
