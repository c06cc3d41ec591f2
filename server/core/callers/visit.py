"""Whose request is running: what it takes is charged to its key, and what it touches stands in the audit log."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal

from server.core.callers.accounts import Account

Did = Literal["read", "stored", "deleted", "started", "cancelled", "revoked"]

# in a context, as what is charged is known deep below whoever knows the key; tasks that a request starts have it too
_current: ContextVar["Visit | None"] = ContextVar("visit", default=None)


@dataclass(eq=False)
class Visit:
    """One request of a key, or one job: the ids that it touched, each with what was done to it last."""

    account: Account
    touched: dict[str, Did] = field(default_factory=dict, init=False)


@contextmanager
def visiting(visit: Visit) -> Iterator[None]:
    """While the body runs, and in tasks that it starts, `charge` and `note` are this visit's."""
    token = _current.set(visit)
    try:
        yield
    finally:
        _current.reset(token)


def current_visit() -> Visit | None:
    """None where the server has no keys."""
    return _current.get()


def charge(num_tokens: int) -> None:
    """Tokens that the engine reads or writes for whoever is served."""
    visit = _current.get()
    if visit is not None:
        visit.account.charge(num_tokens)


def note(did: Did, *ids: str) -> None:
    """What was done to these ids, each of the server's own making: never a word of a client's."""
    visit = _current.get()
    if visit is not None:
        visit.touched |= dict.fromkeys(ids, did)
