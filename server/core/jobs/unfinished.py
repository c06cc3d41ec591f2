"""The list of all tenants' unfinished jobs, in a space of the store: what is to be taken up again stands there."""

import time
from dataclasses import dataclass

from server.core.documents.store_calls import StoreCalls
from server.core.jobs.job import Job
from server.store import Entry, SummaryStore

SPACE = "jobs"


@dataclass(frozen=True, order=True)
class Unfinished:
    """A job in the list of all; `created` in milliseconds since the epoch. Their order is that in which they came."""

    created: int
    id: str
    account: str
    num_bytes: int

    @classmethod
    def of(cls, job: Job, account: str) -> "Unfinished":
        return cls(round(1000 * job.created), job.id, account, job.num_bytes)

    @classmethod
    def read(cls, key: str) -> "Unfinished":
        created, job_id, account, num_bytes = key.split(".")
        return cls(int(created), job_id, account, int(num_bytes))

    @property
    def key(self) -> str:
        """In the store. All of it stands here, so that the list is read in one go."""
        return f"{self.created}.{self.id}.{self.account}.{self.num_bytes}"

    @property
    def age_seconds(self) -> float:
        return time.time() - self.created / 1000


class UnfinishedJobs:
    """The list of all tenants' unfinished jobs. An entry stands there before its job does, and after."""

    def __init__(self, store: SummaryStore, calls: StoreCalls) -> None:
        self._store = store.space(SPACE)
        self._calls = calls

    async def all(self) -> list[Unfinished]:
        """The oldest first. Raises StoreError, as of the store: whoever looks again and again tells nobody of it."""
        return sorted([Unfinished.read(key) async for keys in self._store.walk() for key in keys])

    async def add(self, entry: Unfinished) -> None:
        async with self._calls("put"):
            await self._store.put_many([Entry(entry.key, b"")])

    async def remove(self, entry: Unfinished) -> None:
        async with self._calls("delete"):
            await self._store.delete(entry.key)
