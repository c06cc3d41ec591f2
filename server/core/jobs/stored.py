"""Jobs in the store, each tenant's in a space of their own.

Of a job that is unfinished there are, for ever,

    job:ID        what it is; needs the next two, which go with it
    request:ID    the request as it came, its texts among it
    key:KEY       the id, under the hash of the Idempotency-Key

and while somebody works on it, for `LEASE_SECONDS` that are renewed, `lease:ID`, whose value is whoever does, and
`progress:ID`. Of a job that has ended there are, for `KEPT_SECONDS`, `ended:ID` and `ended-key:KEY`. A time to live
only ever lengthens, hence the other names. Where both are there, the job has ended, and the rest is on its way out.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from server.core.checked import checked, with_checksum
from server.core.documents.progress import Progress
from server.core.documents.store_calls import StoreCalls
from server.core.jobs.job import Job, decoded, decoded_progress, encoded, encoded_progress
from server.store import Entry, EntryChanged, MissingReferences, SummaryStore
from server.store.codec import CorruptRecord

KEPT_SECONDS = 3600.0  # a finished job, for whoever asks for its result
LEASE_SECONDS = 10.0  # without a word of whoever works on a job, after which another may


class StoredJobs:
    """One tenant's. Every call raises what any call to the store raises: NotReady, StoreExhausted, Internal."""

    def __init__(self, store: SummaryStore, account: str, calls: StoreCalls) -> None:
        self._store = store.space(f"{account}.jobs")
        self._calls = calls

    async def find(self, job_id: str) -> Job | None:
        """A job as it is now; None where there is none, or none any more. A damaged one is removed."""
        names = [f"{kind}:{job_id}" for kind in ("ended", "job", "lease", "progress")]
        async with self._calls("get"):
            ended, job, lease, progress = await self._store.get_many(names)
        if (value := ended or job) is None:
            return None
        try:
            found = await asyncio.to_thread(decoded, value)
        except CorruptRecord as error:
            self._calls.damaged("damaged job", f"{job_id} is {error}, and is removed")
            await self._remove(job_id)
            async with self._calls("delete"):
                await self._store.delete(f"ended:{job_id}")
            return None
        if found.is_ended or lease is None:
            return found
        return replace(found, status="running", progress=None if progress is None else decoded_progress(progress))

    async def under(self, key: str) -> tuple[Job | None, bytes | None]:
        """The last job of an Idempotency-Key, by its hash, and what `accept` is to expect."""
        async with self._calls("get"):
            unfinished, ended = await self._store.get_many([f"key:{key}", f"ended-key:{key}"])
        for value in (unfinished, ended):
            if value is not None and (job := await self.find(value.decode())) is not None:
                return job, ended
        return None, ended

    async def accept(self, job: Job, body: bytes, *, ended_key: bytes | None) -> bool:
        """Keep a job that is new; False where another came under its key meanwhile.

        Args:
            ended_key: as `under` gave it.
        """
        entries = [Entry(f"request:{job.id}", await asyncio.to_thread(with_checksum, body))]
        expected = {}
        if job.key is not None:
            entries.append(Entry(f"key:{job.key}", job.id.encode()))
            expected = {f"key:{job.key}": None, f"ended-key:{job.key}": ended_key}
        async with self._unchanged() as put:
            await self._store.put_many([*entries, _entry(job)], expected=expected)
        return put.is_done

    async def request(self, job_id: str) -> bytes | None:
        """What the job was asked for; None where it has ended meanwhile. CorruptRecord is told as Internal."""
        async with self._calls("get"):
            (value,) = await self._store.get_many([f"request:{job_id}"])
        async with self._calls("decode"):
            return None if value is None else await asyncio.to_thread(checked, value, what="a request")

    async def hold(self, job_id: str, holder: str, progress: Progress | None = None) -> bool:
        """Take a job's lease, or renew it; False where another has it or the job has ended.

        The store's clock says when it runs out, so that those of hosts need not agree.
        """
        entries = [Entry(f"lease:{job_id}", holder.encode())]
        if progress is not None:
            entries.append(Entry(f"progress:{job_id}", encoded_progress(progress)))
        async with self._unchanged() as put:
            await self._store.put_many(
                entries,
                ttl_seconds=LEASE_SECONDS,
                # what is put is as good as what is expected: the holder's own lease
                expected={f"lease:{job_id}": None, f"ended:{job_id}": None},
            )
        return put.is_done

    async def update(self, job: Job, holder: str) -> bool:
        """Write what changed of an unfinished job; False where the lease is not the holder's any more."""
        expected = {f"lease:{job.id}": holder.encode(), f"ended:{job.id}": None}
        async with self._unchanged() as put:
            await self._store.put_many([_entry(job)], expected=expected)
        return put.is_done

    async def release(self, job: Job, holder: str) -> None:
        """Leave a job to whoever takes it next, as `job` says."""
        if await self.update(job, holder):
            async with self._calls("delete"):
                await self._store.delete(f"lease:{job.id}")

    async def end(self, job: Job, *, holder: str | None = None) -> bool:
        """Keep a job that has ended; False where it had ended before, or the lease is not the holder's any more."""
        entries = [Entry(f"ended:{job.id}", await asyncio.to_thread(encoded, job))]
        if job.key is not None:
            entries.append(Entry(f"ended-key:{job.key}", job.id.encode()))
        expected: dict[str, bytes | None] = {f"ended:{job.id}": None}
        if holder is not None:
            expected[f"lease:{job.id}"] = holder.encode()
        async with self._unchanged() as put:
            await self._store.put_many(entries, ttl_seconds=KEPT_SECONDS, expected=expected)
        if put.is_done:
            await self._remove(job.id)
        return put.is_done

    async def clear(self, job: Job) -> None:
        """Remove what an ended job had while it was unfinished, where whoever ended it did not come to it."""
        await self._remove(job.id)

    async def size_bytes(self) -> int:
        """Of all the tenant's jobs, ended ones too."""
        async with self._calls("stat"):
            return await self._store.size_bytes()

    async def _remove(self, job_id: str) -> None:
        async with self._calls("delete"):
            await self._store.delete(f"job:{job_id}")

    @asynccontextmanager
    async def _unchanged(self) -> AsyncIterator["_Put"]:
        """Around a put that expects something: done, unless something else was there, or what it needs is gone."""
        put = _Put()
        try:
            async with self._calls("put"):
                yield put
        except (EntryChanged, MissingReferences):
            put.is_done = False


@dataclass
class _Put:
    is_done: bool = True


def _entry(job: Job) -> Entry:
    needed = (f"request:{job.id}", *([] if job.key is None else [f"key:{job.key}"]))
    return Entry(f"job:{job.id}", encoded(replace(job, status="queued", progress=None)), needed, is_pinned=True)
