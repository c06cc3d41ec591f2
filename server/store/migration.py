"""A store copied into another, of whichever backend, or sealed anew where it is; each can be run again."""

import math
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace

from server.store.protocol import EntryChanged, Kept, MissingReferences, SummaryStore
from server.store.sealing import UNREADABLE, StoreKeys

TOGETHER = 100  # entries
LISTED_TOGETHER = 1000  # keys
MAX_ATTEMPTS = 3  # to copy a document that is changed meanwhile
HASHED = ("segment:", "text:")  # what stands under such a key never changes, so that a copy is as good
AT_ONCE = 0.001  # seconds to live of what is put in place of itself: what was left of its life stands


@dataclass(frozen=True)
class Moved:
    """What was done with some entries of a space: `left` are keys of those that could not be read, or not whole."""

    space: str
    copied: int = 0
    were_there: int = 0
    left: tuple[str, ...] = ()


async def copied(source: SummaryStore, target: SummaryStore) -> AsyncIterator[Moved]:
    """Copy all live entries of all spaces: values, references, times to live to a second, lists in their order.

    What `target` has is kept, but for entries that may change, which become those of `source`. What is put into
    `source` meanwhile is copied the next time; what is deleted there stays in `target`.
    """
    for each in await source.stats():
        copy = _Copy(each.space, source.space(each.space), target.space(each.space))
        documents = await _listed(copy.source)
        listed = set(documents)
        async for keys in copy.source.walk():
            others = [key for key in keys if key not in listed]
            for start in range(0, len(others), TOGETHER):
                yield await copy.entries(others[start : start + TOGETHER])
        # each by itself, as they are listed by when they were put
        for key in reversed(documents):
            yield await copy.document(key)


async def sealed_anew(store: SummaryStore, keys: StoreKeys) -> AsyncIterator[Moved]:
    """Have every entry kept as these keys seal it, whether it was sealed by another of them or not at all.

    Args:
        store: as it lies there, not one that seals.
    """
    for each in await store.stats():
        space = store.space(each.space)
        async for walked in space.walk():
            for start in range(0, len(walked), TOGETHER):
                yield await _resealed(space, each.space, walked[start : start + TOGETHER], keys)


async def _listed(store: SummaryStore) -> list[str]:
    """The keys of all documents, the latest first."""
    found: list[str] = []
    while keys := await store.list_referrers(limit=LISTED_TOGETHER, after=found[-1] if found else None):
        found += keys
    return found


@dataclass(frozen=True)
class _Copy:
    """Of one space."""

    space: str
    source: SummaryStore
    target: SummaryStore

    async def entries(self, keys: Sequence[str]) -> Moved:
        """Copy entries that reference nothing, those not that are there and never change."""
        are_there = await self.target.exist(keys)
        wanted = [key for key, is_there in zip(keys, are_there, strict=True) if not (is_there and _is_hashed(key))]
        found = [each for each in await self.source.read(wanted) if each is not None]
        readable = [each for each in found if each.entry.value not in UNREADABLE]
        for ttl_seconds, some in _by_life(readable):
            await self.target.put_many([each.entry for each in some], ttl_seconds=ttl_seconds)
        left = tuple(each.entry.key for each in found if each.entry.value in UNREADABLE)
        return Moved(self.space, len(readable), len(keys) - len(wanted), left)

    async def document(self, key: str) -> Moved:
        """Copy an entry and, where these were put meanwhile, those that it references."""
        for _ in range(MAX_ATTEMPTS):
            (found,) = await self.source.read([key])
            if found is None:  # deleted or expired meanwhile
                return Moved(self.space)
            if found.entry.value in UNREADABLE:
                break
            try:
                await self.target.put_many([found.entry], ttl_seconds=found.seconds_to_live)
            except MissingReferences as error:
                await self._references(error.keys)
            else:
                return Moved(self.space, 1)
        return Moved(self.space, left=(key,))

    async def _references(self, keys: Sequence[str]) -> None:
        for start in range(0, len(keys), TOGETHER):
            some = [each for each in await self.source.read(keys[start : start + TOGETHER]) if each is not None]
            await self.entries([each.entry.key for each in some if not each.entry.references])
            for each in some:
                if each.entry.references:
                    await self.document(each.entry.key)


async def _resealed(store: SummaryStore, space: str, walked: Sequence[str], keys: StoreKeys) -> Moved:
    found = [each for each in await store.read(walked) if each is not None]
    wanted = [each for each in found if not keys.are_of(each.entry.value)]
    values = [keys.opened(space, each.entry.key, each.entry.value, takes_plain=True) for each in wanted]
    left = tuple(each.entry.key for each, value in zip(wanted, values, strict=True) if value in UNREADABLE)
    done = 0
    for each, value in zip(wanted, values, strict=True):
        if value in UNREADABLE:
            continue
        entry = replace(each.entry, value=keys.sealed(space, each.entry.key, value))
        try:
            await store.put_many([entry], ttl_seconds=AT_ONCE, expected={entry.key: each.entry.value})
        except EntryChanged:  # a server has written it anew, or deleted it
            continue
        done += 1
    return Moved(space, done, len(found) - len(wanted), left)


def _is_hashed(key: str) -> bool:
    return key.startswith(HASHED)


def _by_life(found: Sequence[Kept]) -> Iterator[tuple[float | None, list[Kept]]]:
    """Entries by how long they live on, in whole seconds."""
    lives: dict[float | None, list[Kept]] = {}
    for each in found:
        seconds = None if each.seconds_to_live is None else max(1, math.ceil(each.seconds_to_live))
        lives.setdefault(seconds, []).append(each)
    yield from lives.items()
