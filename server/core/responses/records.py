"""Responses as they are kept: what was said, what was answered, and which responses came before."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from server.core.documents.store_calls import StoreCalls
from server.core.responses.items import Compaction, Item
from server.core.tenant import Tenant
from server.errors import PreviousResponseNotFound, ResponseNotFound, TooLong
from server.limits import MAX_CHAIN
from server.store import Entry, SummaryStore
from server.store.codec import CorruptRecord

DIGEST_CHARACTERS = 64
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
    """Turns in the store, each under its tenant and its id, with a time to live."""

    def __init__(self, store: SummaryStore, calls: StoreCalls, *, ttl_seconds: float | None) -> None:
        self._store = store
        self._calls = calls
        self.ttl_seconds = ttl_seconds

    async def put(self, tenant: Tenant, turn: Turn) -> None:
        """Keep a turn, and those before it at least as long."""
        before = [_key(tenant, response_id) for response_id in turn.before]
        if before:
            async with self._calls("touch"):
                await self._store.touch(before, ttl_seconds=self.ttl_seconds)
        async with self._calls("put"):
            await self._store.put_many([Entry(_key(tenant, turn.id), _encoded(turn))], ttl_seconds=self.ttl_seconds)

    async def get(self, tenant: Tenant, response_id: str) -> Turn:
        """One turn; ResponseNotFound where there is none, or no longer."""
        (turn,) = await self._found(tenant, [response_id])
        if turn is None:
            raise ResponseNotFound(f"there is no response {response_id!r}", param="id")
        return turn

    async def delete(self, tenant: Tenant, response_id: str) -> None:
        """Forget a turn: it cannot be gone on from, nor can those after it as far as the next compaction."""
        async with self._calls("delete"):
            was_there = await self._store.delete(_key(tenant, response_id))
        if not was_there:
            raise ResponseNotFound(f"there is no response {response_id!r}", param="id")

    async def conversation(self, tenant: Tenant, last: Turn | str, *, param: str) -> Conversation:
        """The turns up to a response, in order.

        Raises:
            PreviousResponseNotFound: it is not there, or one before it.
            TooLong: there are more than a conversation may have without a compaction.
        """
        if isinstance(last, str):
            (found,) = await self._found(tenant, [last])
            if found is None:
                raise PreviousResponseNotFound(
                    f"Previous response with id {last!r} not found: it is deleted, has expired, or was made with "
                    "`store`: false",
                    param=param,
                )
            last = found
        if len(last.before) >= MAX_CHAIN:
            raise TooLong(
                f"{len(last.before) + 1} responses go on from one another, and the limit is {MAX_CHAIN}; compact the "
                "conversation",
                param=param,
            )
        turns = await self._found(tenant, last.before) if last.before else []
        for response_id, turn in zip(last.before, turns, strict=True):
            if turn is None:
                raise PreviousResponseNotFound(
                    f"Response {response_id!r}, from which {last.id!r} goes on, is deleted or has expired", param=param
                )
        return Conversation((*(turn for turn in turns if turn is not None), last))

    async def _found(self, tenant: Tenant, ids: Sequence[str]) -> list[Turn | None]:
        async with self._calls("get"):
            values = await self._store.get_many([_key(tenant, response_id) for response_id in ids])
        async with self._calls("decode"):
            return [None if value is None else _decoded(value) for value in values]


def forgetful(turn: Turn, conversation: Conversation) -> Turn:
    """A turn that has all that is before it, where that is not in the store."""
    return replace(turn, before=(), input=(*conversation.items, *turn.input))


def _key(tenant: Tenant, response_id: str) -> str:
    return f"response:{tenant.account}:{response_id}"


def _encoded(turn: Turn) -> bytes:
    """A checksum, and the turn as JSON."""
    data = _turns.dump_json(turn)
    return hashlib.sha256(data).hexdigest().encode() + data


def _decoded(value: bytes) -> Turn:
    digest, data = value[:DIGEST_CHARACTERS], value[DIGEST_CHARACTERS:]
    if hashlib.sha256(data).hexdigest().encode() != digest:
        raise CorruptRecord("not a response: the checksum differs")
    try:
        return _turns.validate_json(data)
    except ValidationError as error:
        raise CorruptRecord("not a response: its fields cannot be read") from error
