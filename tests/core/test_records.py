"""Responses as they are kept, and what is read of the conversations they make."""

from pathlib import Path
from typing import Any

import pytest

from server.core.documents.store_calls import StoreCalls
from server.core.responses.items import Compaction, Message, TextPart
from server.core.responses.records import Conversation, Records, Turn, forgetful
from server.core.tenant import Tenant
from server.errors import ResponseNotFound, TooLong
from server.limits import MAX_CHAIN
from server.metrics import Metrics
from server.store import open_store


def turn_of(response_id: str, before: tuple[str, ...] = (), *, tools: int = 0, items: tuple[Any, ...] = ()) -> Turn:
    shown = {"id": response_id, "tools": ["a" * tools]}
    return Turn(response_id, before, (*items, Message(f"msg_{response_id}", "user", (TextPart("a"),))), (), shown)


async def test_a_conversation_is_held_to_the_bytes_of_one_request_and_is_not_read_on(tmp_path: Path) -> None:
    store = await open_store(f"sqlite:{tmp_path / 'store.db'}")
    read: list[int] = []
    try:
        records = Records(store, StoreCalls(Metrics()), ttl_seconds=None, max_bytes=100_000)
        ids = tuple(str(number) for number in range(100))
        for number, response_id in enumerate(ids):
            await records.put(Tenant(), turn_of(response_id, ids[:number], tools=10_000))
        assert len((await records.conversation(Tenant(), "8", param="p")).turns) == 9
        get_many = store.get_many

        async def counted(keys: Any) -> Any:
            read.append(len(keys))
            return await get_many(keys)

        store.get_many = counted  # type: ignore[method-assign]
        with pytest.raises(TooLong, match="the limit is 100000"):
            await records.conversation(Tenant(), "99", param="p")
        assert sum(read) < 20
        with pytest.raises(TooLong, match="the limit is 100000"):
            await records.conversation(Tenant(), turn_of("one", tools=100_000), param="p")
    finally:
        await store.close()


async def test_turns_that_name_all_before_them_stay_small_together(tmp_path: Path) -> None:
    before = tuple(f"resp_{number:032x}" for number in range(MAX_CHAIN))
    store = await open_store(f"sqlite:{tmp_path / 'store.db'}")
    try:
        records = Records(store, StoreCalls(Metrics()), ttl_seconds=None, max_bytes=2**24)
        await records.put(Tenant(), turn_of("last", before))
        ((_, num_bytes),) = await records._found(Tenant(), ["last"], ResponseNotFound, param="id")
        assert num_bytes * MAX_CHAIN / 2 < 2**25
        with pytest.raises(TooLong, match=f"the limit is {MAX_CHAIN}"):
            await records.conversation(Tenant(), "last", param="p")
    finally:
        await store.close()


def test_what_is_kept_in_memory_of_a_conversation_begins_with_its_newest_compaction() -> None:
    told = Message("s", "system", (TextPart("be brief"),))
    said = Message("u", "user", (TextPart("a" * 1000),))
    conversation = Conversation((turn_of("one", items=(told, said, Compaction("cmp", "sealed"))),))
    kept = forgetful(turn_of("two"), conversation)
    assert [item.id for item in kept.input] == ["s", "cmp", "msg_one", "msg_two"]
    assert forgetful(turn_of("two"), Conversation((turn_of("one", items=(said,)),))).input[0] == said
