"""Where summaries are kept: one protocol, in a file or in Redis.

The bytes of a record are `server.store.codec`, apart because it needs torch.
"""

import re
from pathlib import Path

from server.store.budget import UNBOUNDED, Budget
from server.store.protocol import (
    OWN_SPACE,
    Entry,
    EntryChanged,
    EntryStat,
    Kept,
    MissingReferences,
    QuotaExceeded,
    SpaceStats,
    StillReferenced,
    StoreError,
    StoreFull,
    StoreUnavailable,
    SummaryStore,
    Swept,
)
from server.store.redis.address import is_redis
from server.store.redis.connect import connect
from server.store.redis.store import RedisStore
from server.store.sealed import SealedStore
from server.store.sealing import StoreKeys
from server.store.sqlite.store import EmbeddedStore
from server.store.urls import shown_url

__all__ = [
    "OWN_SPACE",
    "Budget",
    "EmbeddedStore",
    "Entry",
    "EntryChanged",
    "EntryStat",
    "Kept",
    "MissingReferences",
    "QuotaExceeded",
    "RedisStore",
    "SealedStore",
    "SpaceStats",
    "StillReferenced",
    "StoreError",
    "StoreFull",
    "StoreKeys",
    "StoreUnavailable",
    "SummaryStore",
    "Swept",
    "open_store",
    "shown_url",
]


async def open_store(url: str, *, budget: Budget = UNBOUNDED, old_space: str = OWN_SPACE) -> SummaryStore:
    """Open the store that `url` names; the caller closes it.

    Args:
        url: `sqlite:PATH`, relative or absolute, whose folder is created; or a Redis, to which nothing is sent yet:
            `redis://HOST:PORT/DB`, `unix://PATH?db=DB`, `redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DB`,
            `redis+cluster://HOST:PORT,HOST:PORT`, each but the second with `rediss` for TLS. The query has options of
            redis-py and our own (`server.store.redis.address`).
        old_space: whose entries become what a file has of before there were spaces.

    Raises:
        ValueError: the URL is none of these.
        StoreUnavailable: the file cannot be opened.
        StoreError: the file is of another program or of another version of this one.
    """
    if url == "sqlite::memory:":
        raise ValueError("the store must outlive the process: name a file as sqlite:PATH, not sqlite::memory:")
    # `sqlite://...` of other programs means other paths than it says here, so it is refused rather than guessed at
    if re.fullmatch(r"sqlite:(?!//).+", url):
        return await EmbeddedStore.open(Path(url.removeprefix("sqlite:")), budget=budget, old_space=old_space)
    if is_redis(url):
        return RedisStore(connect(url), budget)
    raise ValueError(
        "a store is sqlite:PATH, redis://HOST:PORT/DB, rediss://..., unix://PATH, "
        f"redis+sentinel://HOST:PORT/SERVICE/DB or redis+cluster://HOST:PORT, not {shown_url(url)!r}"
    )
