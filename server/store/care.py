"""A store looked over: whether its records are what was put. Needs torch, as `codec` does."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

from server.store.codec import CorruptRecord, FingerprintMismatch, decode_manifest, decode_segment, decode_text
from server.store.protocol import StillReferenced, SummaryStore
from server.store.sealing import BROKEN, UNREADABLE

CHECKS = {"manifest": decode_manifest, "segment": decode_segment, "text": decode_text}
READ_TOGETHER = 100  # records


@dataclass(frozen=True)
class Looked:
    """What was found of some entries of a space.

    Attributes:
        checked: records whose checksum was compared. others: those that have none, their seals compared.
        damaged: keys of records that are not what was put.
        unread: records that no key opens, or that are not sealed though there are keys; nothing is known of them.
    """

    space: str
    checked: int
    others: int
    damaged: tuple[str, ...]
    unread: int


async def look_over(store: SummaryStore) -> AsyncIterator[Looked]:
    """Read all entries of all spaces, of whichever models, some together."""
    for each in await store.stats():
        space = store.space(each.space)
        async for keys in space.walk():
            for start in range(0, len(keys), READ_TOGETHER):
                yield await _looked_at(space, each.space, keys[start : start + READ_TOGETHER])


async def _looked_at(store: SummaryStore, name: str, keys: list[str]) -> Looked:
    found = {key: value for key, value in zip(keys, await store.get_many(keys), strict=True) if value is not None}
    unread = [key for key, value in found.items() if value in UNREADABLE and value != BROKEN]
    checked = [key for key in found if key not in unread and key.partition(":")[0] in CHECKS]
    damaged = tuple(key for key, value in found.items() if key not in unread and _is_damaged(key, value))
    return Looked(name, len(checked), len(found) - len(checked) - len(unread), damaged, len(unread))


def _is_damaged(key: str, value: bytes) -> bool:
    check = CHECKS.get(key.partition(":")[0])
    if value == BROKEN or check is None:
        return value == BROKEN
    try:
        check(value, fingerprint="")
    except CorruptRecord:
        return True
    except FingerprintMismatch:  # whole: checksums are compared first
        pass
    return False


async def remove_damaged(store: SummaryStore, found: Looked) -> int:
    """Delete damaged entries, and say how many went: one that a whole entry needs stays, and is computed again when its
    document is compressed the next time.
    """
    space, num_removed = store.space(found.space), 0
    for key in found.damaged:
        try:
            num_removed += await space.delete(key)
        except StillReferenced:
            continue
    return num_removed
