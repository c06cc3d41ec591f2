"""Responses as they are kept: what was said, what was answered, and which responses came before."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from server.core.callers.visit import note
from server.core.checked import checked, with_checksum
from server.core.documents.store_calls import StoreCalls
from server.core.responses.items import Compaction, Item, Message
from server.core.tenant import Tenant
from server.errors import PreviousResponseNotFound, ResponseNotFound, ServiceError, TooLong
from server.limits import MAX_CHAIN
from server.store import Entry, SummaryStore
from server.store.codec import CorruptRecord

READ_TOGETHER = 8  # turns: what is over the limit is seen before much more than that is in memory
Items = tuple[Annotated[Item, Field(discriminator="type")], ...]


@dataclass(frozen=True)
class Turn:
    """A response, and what it answered.

    Attributes:
        before: ids of the responses whose items stand before its own, as far as the newest compaction among them.
        shown: the response as its client got it.
    """

    id: str
    before: tuple[str, ...]
    input: Items
    output: Items
    shown: dict[str, Any]

    @property
    def items(self) -> tuple[Item, ...]:
        return (*self.input, *self.output)

    @property
    def is_compacted(self) -> bool:
        """Whether one of its items stands for all before it."""
        return any(isinstance(item, Compaction) for item in self.items)


@dataclass(frozen=True)
class Conversation:
    """What a response goes on from: the turns before it, none for a new conversation."""

    turns: tuple[Turn, ...] = ()

    @property
    def items(self) -> tuple[Item, ...]:
        return tuple(item for turn in self.turns for item in turn.items)

    @property
    def before(self) -> tuple[str, ...]:
        """What a turn that goes on from it has before it."""
        last = max((place for place, turn in enumerate(self.turns) if turn.is_compacted), default=0)
        return tuple(turn.id for turn in self.turns[last:])


_turns = TypeAdapter(Turn)


class Records:
    """Turns in the store, each in its tenant's space under its id, with a time to live."""

    def __init__(self, store: SummaryStore, calls: StoreCalls, *, ttl_seconds: float | None, max_bytes: int) -> None:
        """`max_bytes`: of a conversation that is gone on from, as its turns are kept."""
        self._store = store
        self._calls = calls
        self._max_bytes = max_bytes
        self.ttl_seconds = ttl_seconds

    async def put(self, tenant: Tenant, turn: Turn) -> None:
        """Keep a turn, and those before it at least as long."""
        store = self._store.space(tenant.account)
        before = [_key(response_id) for response_id in turn.before]
        if before:
            async with self._calls("touch"):
                await store.touch(before, ttl_seconds=self.ttl_seconds)
        async with self._calls("put"):
            data = await asyncio.to_thread(_encoded, turn)
            await store.put_many([Entry(_key(turn.id), data)], ttl_seconds=self.ttl_seconds)
        note("stored", turn.id)

    async def get(self, tenant: Tenant, response_id: str) -> Turn:
        """One turn; ResponseNotFound where there is none, or no longer, or it is damaged."""
        ((turn, _),) = await self._found(tenant, [response_id], ResponseNotFound, param="id")
        if turn is None:
            raise ResponseNotFound(f"there is no response {response_id!r}", param="id")
        note("read", turn.id)
        return turn

    async def turns(self, tenant: Tenant, ids: Sequence[str], *, param: str) -> dict[str, Turn]:
        """Those of these turns that are there, by their ids.

        Raises:
            TooLong: they are larger together than a conversation may be. ResponseNotFound: one is damaged.
        """
        turns, num_bytes = dict[str, Turn](), 0
        for start in range(0, len(ids), READ_TOGETHER):
            found = await self._found(tenant, ids[start : start + READ_TOGETHER], ResponseNotFound, param=param)
            num_bytes += sum(size for _, size in found)
            self._require_within(num_bytes, param)
            turns |= {turn.id: turn for turn, _ in found if turn is not None}
        note("read", *turns)
        return turns

    async def size_bytes(self, tenant: Tenant) -> int:
        """Bytes of all that a tenant has stored, summaries too, jobs left out. Raises as any call to the store."""
        async with self._calls("stat"):
            return await self._store.space(tenant.account).size_bytes()

    async def delete(self, tenant: Tenant, response_id: str) -> None:
        """Forget a turn: it cannot be gone on from, nor can those after it as far as the next compaction."""
        async with self._calls("delete"):
            was_there = await self._store.space(tenant.account).delete(_key(response_id))
        if not was_there:
            raise ResponseNotFound(f"there is no response {response_id!r}", param="id")
        note("deleted", response_id)

    async def conversation(self, tenant: Tenant, last: Turn | str, *, param: str) -> Conversation:
        """The turns up to a response, in order.

        Raises:
            PreviousResponseNotFound: it is not there or damaged, or one before it.
            TooLong: they are more, or larger together, than a conversation may be without a compaction.
        """
        if isinstance(last, str):
            ((newest, num_bytes),) = await self._found(tenant, [last], PreviousResponseNotFound, param=param)
            if newest is None:
                raise PreviousResponseNotFound(
                    f"Previous response with id {last!r} not found: it is deleted, has expired, or was made with "
                    "`store`: false",
                    param=param,
                )
            last = newest
        else:
            num_bytes = len(await asyncio.to_thread(_encoded, last))
        if len(last.before) >= MAX_CHAIN:
            raise TooLong(
                f"{len(last.before) + 1} responses go on from one another, and the limit is {MAX_CHAIN}; compact the "
                "conversation",
                param=param,
            )
        turns = [last]
        for end in range(len(last.before), 0, -READ_TOGETHER):
            self._require_within(num_bytes, param)
            ids = last.before[max(0, end - READ_TOGETHER) : end]
            found = await self._found(tenant, ids, PreviousResponseNotFound, param=param)
            for response_id, (turn, more) in reversed([*zip(ids, found, strict=True)]):
                if turn is None:
                    raise PreviousResponseNotFound(
                        f"Response {response_id!r}, from which {last.id!r} goes on, is deleted or has expired",
                        param=param,
                    )
                num_bytes += more
                turns.append(turn)
        self._require_within(num_bytes, param)
        note("read", *(turn.id for turn in turns))
        return Conversation(tuple(reversed(turns)))

    def _require_within(self, num_bytes: int, param: str) -> None:
        if num_bytes > self._max_bytes:
            raise TooLong(
                f"the responses before this one have {num_bytes} bytes or more, and the limit is {self._max_bytes}, as "
                "of a request's body; compact the conversation on the way, by `context_management`",
                param=param,
            )

    async def _found(
        self, tenant: Tenant, ids: Sequence[str], damaged: type[ServiceError], *, param: str
    ) -> list[tuple[Turn | None, int]]:
        """The turns, None where there is none, and the bytes that each has stored; raises `damaged` of one that is."""
        async with self._calls("get"):
            values = await self._store.space(tenant.account).get_many([_key(response_id) for response_id in ids])
        async with self._calls("decode", param=param, damaged=damaged):
            turns = await asyncio.to_thread(lambda: [None if value is None else _decoded(value) for value in values])
        return [(turn, len(value or b"")) for turn, value in zip(turns, values, strict=True)]


def forgetful(turn: Turn, conversation: Conversation) -> Turn:
    """A turn that has all that is read of what is before it, where that is not in the store."""
    return replace(turn, before=(), input=_read((*conversation.items, *turn.input)))


def _read(items: Items) -> Items:
    """The items from the newest compaction on, and what instructs before it: of others nothing is read any more."""
    newest = max((place for place, item in enumerate(items) if isinstance(item, Compaction)), default=0)
    return tuple(
        item for place, item in enumerate(items) if place >= newest or (isinstance(item, Message) and item.instructs)
    )


def _key(response_id: str) -> str:
    return f"response:{response_id}"


def _encoded(turn: Turn) -> bytes:
    return with_checksum(_turns.dump_json(turn))


def _decoded(value: bytes) -> Turn:
    try:
        return _turns.validate_json(checked(value, what="a response"))
    except ValidationError as error:
        raise CorruptRecord("not a response: its fields cannot be read") from error
