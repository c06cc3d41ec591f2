"""What a store of summaries promises, whichever backend keeps them."""

import math
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

OWN_SPACE = "server"  # what belongs to no tenant; the space of a store that is just opened
REMEMBERED_SECONDS = 86_400  # for so long a list goes on after an entry that is gone


class StoreError(Exception):
    """The store could not do what it was asked; nothing was changed."""


class StoreUnavailable(StoreError):
    """The store cannot be reached, does not answer in time, or its disk fails; the same call may succeed later."""


class StoreFull(StoreError):
    """There is no room for more; nothing can be put until something is deleted or expires."""


class QuotaExceeded(StoreError):
    """A put would have its space grow beyond the bytes that the space may have."""

    def __init__(self, size_bytes: int, max_bytes: int) -> None:
        super().__init__(f"with this put the space has {size_bytes} bytes, and its limit is {max_bytes}")
        self.size_bytes = size_bytes
        self.max_bytes = max_bytes


class MissingReferences(StoreError):
    """An entry needs others that are neither in the store nor in the same call."""

    def __init__(self, keys: Sequence[str]) -> None:
        super().__init__(f"{len(keys)} referenced entries are not in the store, among them {', '.join(keys[:3])}")
        self.keys = tuple(keys)


class StillReferenced(StoreError):
    """An entry that another live one needs cannot be deleted."""

    def __init__(self, key: str) -> None:
        super().__init__(f"{key} is still referenced by another entry")
        self.key = key


class EntryChanged(StoreError):
    """An entry is not what the caller expected; another client wrote it meanwhile."""

    def __init__(self, key: str) -> None:
        super().__init__(f"{key} was changed meanwhile")
        self.key = key


@dataclass(frozen=True)
class Entry:
    """One record to store; `references` are the keys of those it is of no use without.

    References may reach over several levels but must not form a circle: nothing in a circle can be deleted.
    `is_pinned`: it is never evicted, nor what it references; what the last put of a key says counts.
    """

    key: str
    value: bytes
    references: tuple[str, ...] = ()
    is_pinned: bool = False

    def __post_init__(self) -> None:
        if self.key in self.references:
            raise ValueError(f"{self.key} references itself")


@dataclass(frozen=True)
class EntryStat:
    """`size_bytes` counts the value alone; `seconds_to_live` is None for an entry that never expires."""

    size_bytes: int
    seconds_to_live: float | None


@dataclass(frozen=True)
class Kept:
    """An entry as it lies in a store; `seconds_to_live` is None for one that never expires."""

    entry: Entry
    seconds_to_live: float | None


@dataclass(frozen=True)
class SpaceStats:
    """What a space has: live entries, `documents` of them that reference others, and the bytes of all values."""

    space: str
    entries: int
    documents: int
    size_bytes: int


@dataclass(frozen=True)
class Swept:
    """What was removed of all spaces: entries that had expired. `freed_bytes`: given back to the system."""

    entries: int
    freed_bytes: int


class SummaryStore(Protocol):
    """Bytes under keys, with a time to live and references that are kept whole.

    Keys, references and lists are a space's own: entries of two spaces know nothing of one another. A store that is
    opened shows `OWN_SPACE`; `space` gives the others.

    Every live entry finds its references live: they expire no earlier, and are never deleted before it.
    Any number of tasks, processes and hosts (as far as the backend reaches) may share one store; each call is atomic.
    A call that is cancelled, or that raises StoreUnavailable after it was sent, has happened wholly or not at all.
    Every call may raise StoreUnavailable.

    With a budget of bytes, a put for which there is no room evicts whole documents, of whatever space, until there is:
    entries that reference others and that no live one references, with all that nothing else references. Those go
    first that were put, touched or told to be of `use` the longest ago; never one that is pinned. Entries without
    references are never evicted by themselves. Several clients that put at the same moment may exceed the budget by
    what they put.

    Attributes:
        may_lose: whether the backend removes live entries by itself, as a Redis that evicts: references may be gone.
    """

    @property
    def may_lose(self) -> bool: ...

    def space(self, name: str) -> "SummaryStore":
        """A view of one space, which there need not be yet; it is closed with the store.

        Raises:
            ValueError: the name is not 1 to 64 letters, digits, `.`, `-` or `_`.
        """
        ...

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the values in the order of `keys`; None where there is no entry or it has expired."""
        ...

    async def exist(self, keys: Sequence[str]) -> list[bool]:
        """Of each key, whether there is an entry, in one round trip however many keys there are."""
        ...

    async def put_many(
        self,
        entries: Sequence[Entry],
        *,
        ttl_seconds: float | None = None,
        expected: Mapping[str, bytes | None] | None = None,
    ) -> None:
        """Store all entries or none, and return when they are as durable as the backend makes them.

        An entry replaces the value and the references of an earlier one of the same key; of two with the same key in
        one call the last counts. A time to live only ever lengthens: what is left of an earlier one stands if it is
        longer. The references of an entry are lengthened to at least the entry's own resulting expiry.

        Args:
            ttl_seconds: time to live, rounded up to a millisecond; None never expires.
            expected: of some keys what must be there, None for nothing. What this very call puts is as good: a call
                whose reply was lost is sent again.

        Raises:
            EntryChanged: something else is there than was expected.
            MissingReferences: a reference is neither live in the store nor in `entries`.
            QuotaExceeded: the space has a limit of its own, and would be over it; nothing is evicted for that.
            StoreFull: there is no room, and nothing that could be evicted makes any.
            ValueError: `ttl_seconds` is not a positive finite number.
        """
        ...

    async def touch(self, keys: Sequence[str], *, ttl_seconds: float | None) -> list[bool]:
        """Lengthen what is left of entries, and of what they reference, to at least so much, as `put_many` does.

        Returns:
            Of each key, whether there is an entry.
        """
        ...

    async def delete(self, key: str) -> bool:
        """Remove an entry and, of what it references, whatever no other live entry references.

        Entries that nothing ever referenced are removed by their own key or by expiry only. An entry kept for another
        referrer keeps its time to live, so one kept for ever outlives a referrer that later expires by itself.

        Returns:
            Whether the entry was there. A reply lost on the way is asked for again, and may so read False.

        Raises:
            StillReferenced: another live entry references this one.
        """
        ...

    def use(self, keys: Sequence[str]) -> None:
        """Note that entries were used just now: of unpinned ones those go first that were not for the longest time.

        Nobody waits for it. It is written within a minute, or with the next put; a client that ends before forgets it.
        """
        ...

    async def find(self, key: str) -> tuple[bytes, float | None] | None:
        """An entry's value and the seconds it has to live, None for ever, as of one moment; None if it is absent."""
        ...

    async def read(self, keys: Sequence[str]) -> list[Kept | None]:
        """Entries whole, each with what it references and its time to live, in the order of `keys`; None for none.

        Whether one that references nothing is pinned may be forgotten.
        """
        ...

    async def stat(self, key: str) -> EntryStat | None:
        """Describe an entry without reading it; None if it is absent or expired."""
        ...

    async def list_referrers(self, *, limit: int, after: str | None = None) -> list[str] | None:
        """Keys of live entries that reference others, by when they were first put, the latest first.

        An entry put again while it lives keeps its place.

        Args:
            after: begin behind this key, or behind where it was: the place of an entry that is gone is remembered for
                `REMEMBERED_SECONDS`. The result is None where there is and was no such entry.
        """
        ...

    def walk(self) -> AsyncIterator[list[str]]:
        """The keys of all live entries of this space, in no order, some hundreds together.

        What is put or removed meanwhile may be among them or not; a key may come twice.
        """
        ...

    async def size_bytes(self) -> int:
        """Bytes of all values of this space, those that have expired and were not swept yet included; read at once."""
        ...

    async def stats(self) -> list[SpaceStats]:
        """Counts of all spaces that have entries, by their names. Takes as long as there are entries."""
        ...

    async def sweep(self) -> Swept:
        """Remove what has expired, of all spaces, and give unused space back to the system, a little at a time."""
        ...

    async def concerns(self) -> list[str]:
        """What is wrong with how the store is set up, in sentences for whoever runs it."""
        ...

    async def ping(self) -> None:
        """Return if the store answers and has room; raise StoreUnavailable, or StoreFull since a put found it full."""
        ...

    async def close(self) -> None:
        """Let go of connections and threads, after what was asked before is done; the last call to a store."""
        ...


def require_space(name: str) -> str:
    """The name, where it may name a space; else ValueError."""
    # no braces: those would end a hash tag of Redis
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name):
        raise ValueError(f"a space has a name of 1 to 64 letters, digits, '.', '-' and '_', not {name!r}")
    return name


def to_milliseconds(ttl_seconds: float | None) -> int | None:
    """Round a time to live up to whole milliseconds; ValueError unless it is positive and finite, or None."""
    if ttl_seconds is None:
        return None
    if not (math.isfinite(ttl_seconds) and ttl_seconds > 0):
        raise ValueError(f"ttl_seconds must be positive and finite, or None for ever, not {ttl_seconds}")
    return math.ceil(ttl_seconds * 1000)
