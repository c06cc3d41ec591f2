"""The audit log: who did what to which ids, and how many bytes came and went; never text, never a key."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from server.core.callers.accounts import Account
from server.core.callers.visit import Visit, visiting

logger = logging.getLogger("server.audit")

MOST_IDS = 64  # of a line


def visited(visit: Visit, what: str, status: int, num_received: int, num_sent: int) -> None:
    """A request that was let in, at its end."""
    logger.info(
        "%s %s %d received=%d sent=%d%s", _who(visit.account), what, status, num_received, num_sent, _ids(visit)
    )


@contextmanager
def job(account: Account | None, job_id: str) -> Iterator[None]:
    """Around the work of a job, which is charged to an account; without one, nothing."""
    if account is None:
        yield
        return
    visit, outcome = Visit(account), "failed"
    try:
        with visiting(visit):
            yield
        outcome = "done"
    except asyncio.CancelledError:
        outcome = "stopped"
        raise
    finally:
        logger.info("%s JOB %s %s%s", _who(account), job_id, outcome, _ids(visit))


def refused(account: Account | None, method: str, code: str) -> None:
    """A request that was not let in: by whose key, where it was known, and why not."""
    logger.info("%s %s refused %s", _who(account), method, code)


def _who(account: Account | None) -> str:
    return "key=- tenant=-" if account is None else f"key={account.key.name} tenant={account.key.tenant_name or '-'}"


def _ids(visit: Visit) -> str:
    touched = list(visit.touched.items())
    shown = "".join(f" {did}={touched_id}" for touched_id, did in touched[:MOST_IDS])
    return shown + (f" and {len(touched) - MOST_IDS} more" if len(touched) > MOST_IDS else "")
