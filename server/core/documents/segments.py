"""What is stored of segments: their summary vectors and, where they are kept, their texts; one record each."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

from model.compressors import SegmentSummary
from server.core.documents.memory_tier import MemoryTier
from server.core.documents.store_calls import StoreCalls
from server.core.served_model import ServedModel
from server.errors import ServiceError, SummaryNotFound
from server.store import Entry, StillReferenced, SummaryStore
from server.store.codec import CorruptRecord, decode_segment, decode_text, encode_segment, encode_text

T = TypeVar("T")
TOGETHER = 256  # records in one call to the store, so that a long document is not in memory twice


def segment_key(key: str) -> str:
    """Under which a segment's vectors are stored."""
    return f"segment:{key}"


def text_key(key: str) -> str:
    """Under which a segment's token ids are stored."""
    return f"text:{key}"


def is_text_key(key: str) -> bool:
    """Whether a key of the store is `text_key`'s."""
    return key.startswith(text_key(""))


class Segments:
    """Reads and writes segments under their keys."""

    def __init__(self, model: ServedModel, store: SummaryStore, tier: MemoryTier, calls: StoreCalls) -> None:
        self._fingerprint, self._as_int8 = model.fingerprint, model.rounds_vectors
        self._store = store
        self._tier = tier
        self._calls = calls

    async def find(self, keys: Sequence[str]) -> list[SegmentSummary | None]:
        """The summary of each of these segments; None for one that is absent, or damaged and to be replaced."""
        return [found async for found in self._each(keys, self._tolerant)]

    async def are_stored(self, keys: Sequence[str]) -> list[bool]:
        """As `find`, without keeping what is read."""
        return [found async for found in self._each(keys, lambda key, value: self._tolerant(key, value) is not None)]

    async def are_there(self, keys: Sequence[str], *, with_texts: bool) -> bool:
        """Whether the store has a record of each of a manifest's segments, and of its text: one call to it, if any."""
        if not self._store.may_lose:
            return True
        names = _names(keys, with_texts=with_texts)
        async with self._calls("exist"):
            return all(await self._store.exist(names))

    def are_damaged(self, keys: Sequence[str], *, with_texts: bool) -> bool:
        """Whether a record of these segments, or of their texts, was found damaged here and not put again since."""
        damaged = self._calls.damaged_keys
        return bool(damaged) and any(name in damaged for name in _names(keys, with_texts=with_texts))

    async def read(self, keys: Sequence[str], lengths: Sequence[int]) -> list[SegmentSummary | None]:
        """The most important vectors of each of these segments, so many; None for one that is absent.

        Args:
            keys: of a manifest that was read for the same request; of those the memory may answer.

        Raises:
            SummaryNotFound: a record is damaged. ModelMismatch, and what any call to the store raises.
        """
        kept = [self._tier.get(key) for key in keys]
        absent = [place for place, summary in enumerate(kept) if summary is None]
        wanted = iter(absent)  # one for each record, in their order

        def thinned(key: str, value: bytes | None) -> SegmentSummary | None:
            num_vectors = lengths[next(wanted)]
            if value is None:
                return None
            whole = decode_segment(value, fingerprint=self._fingerprint)
            self._tier.keep(key, whole)
            return whole.thinned(num_vectors)

        read = iter([found async for found in self._each([keys[place] for place in absent], thinned)])
        if len(absent) == len(keys):
            return list(read)
        return await asyncio.to_thread(
            lambda: [
                next(read) if summary is None else summary.thinned(length)
                for summary, length in zip(kept, lengths, strict=True)
            ]
        )

    async def put(self, key: str, summary: SegmentSummary, *, ttl_seconds: float) -> None:
        value = await asyncio.to_thread(encode_segment, summary, fingerprint=self._fingerprint, as_int8=self._as_int8)
        async with self._calls("put"):
            await self._store.put_many([Entry(segment_key(key), value)], ttl_seconds=ttl_seconds)
        self._calls.damaged_keys.pop(segment_key(key), None)

    async def forget(self, keys: Sequence[str]) -> None:
        """Remove those of these segments and texts that no document has; what is wrong with the store is logged."""
        for key in dict.fromkeys(keys):
            for name in (segment_key(key), text_key(key)):
                with suppress(ServiceError, StillReferenced):
                    async with self._calls("delete"):
                        await self._store.delete(name)

    async def touch(self, keys: Sequence[str], *, ttl_seconds: float) -> None:
        """Have those of these segments that are stored live at least so long."""
        for start in range(0, len(keys), TOGETHER):
            some = [segment_key(key) for key in keys[start : start + TOGETHER]]
            async with self._calls("touch"):
                await self._store.touch(some, ttl_seconds=ttl_seconds)

    @asynccontextmanager
    async def kept(self, keys: Sequence[str], *, ttl_seconds: float) -> AsyncIterator[None]:
        """While the body runs, those of these segments that are stored do not expire, however long it takes.

        Args:
            ttl_seconds: how long they then live on at least, but for a quarter.
        """

        async def renew() -> None:
            while True:
                with suppress(ServiceError):  # it is logged, and whatever the body stores next fails for it too
                    await self.touch(keys, ttl_seconds=ttl_seconds)
                await asyncio.sleep(ttl_seconds / 4)

        renewing = asyncio.create_task(renew())
        try:
            yield
        finally:
            renewing.cancel()
            await asyncio.wait([renewing])

    async def put_texts(self, keys: Sequence[str], texts: Sequence[Sequence[int]], *, ttl_seconds: float) -> None:
        """Store the token ids of each of these segments."""
        for start in range(0, len(keys), TOGETHER):
            entries = [
                Entry(text_key(key), encode_text(token_ids, fingerprint=self._fingerprint))
                for key, token_ids in zip(keys[start : start + TOGETHER], texts[start : start + TOGETHER], strict=True)
            ]
            async with self._calls("put"):
                await self._store.put_many(entries, ttl_seconds=ttl_seconds)
            for entry in entries:
                self._calls.damaged_keys.pop(entry.key, None)

    async def texts(self, keys: Sequence[str]) -> list[tuple[int, ...] | None]:
        """The token ids of each of these segments; None where they are not kept. Raises as `read`."""

        def decoded(_: str, value: bytes | None) -> tuple[int, ...] | None:
            return None if value is None else decode_text(value, fingerprint=self._fingerprint)

        return [found async for found in self._each(keys, decoded, name=text_key)]

    async def _each(
        self,
        keys: Sequence[str],
        decode: Callable[[str, bytes | None], T],
        *,
        name: Callable[[str], str] = segment_key,
    ) -> AsyncIterator[T]:
        damaged: list[str] = []

        def named(key: str, value: bytes | None) -> T:
            try:
                return decode(key, value)
            except CorruptRecord as error:
                damaged.append(name(key))
                raise CorruptRecord(f"{name(key)} is {error}") from error

        for start in range(0, len(keys), TOGETHER):
            some = keys[start : start + TOGETHER]
            async with self._calls("get"):
                values = await self._store.get_many([name(key) for key in some])
            async with self._calls("decode", damaged=SummaryNotFound):
                try:
                    decoded = await asyncio.to_thread(lambda: list(map(named, some, values)))  # noqa: B023  # awaited here
                finally:
                    self._calls.damaged_keys.update(dict.fromkeys(damaged))
            for each in decoded:
                yield each

    def _tolerant(self, key: str, value: bytes | None) -> SegmentSummary | None:
        try:
            return None if value is None else decode_segment(value, fingerprint=self._fingerprint)
        except CorruptRecord:
            self._calls.damaged("damaged segment", f"segment {key} is damaged and is computed anew")
            return None


def _names(keys: Sequence[str], *, with_texts: bool) -> list[str]:
    """Of the records of these segments, each once, and of their texts."""
    kinds = (segment_key, text_key) if with_texts else (segment_key,)
    return [name(key) for name in kinds for key in dict.fromkeys(keys)]
