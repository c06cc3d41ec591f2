"""Values that are sealed: nothing of them lies in the store, and nothing is read but what was put there."""

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from server.store import Entry, EntryChanged, SealedStore, StoreKeys, SummaryStore, open_store
from server.store.sealing import BROKEN, MARK, NO_KEY, NOT_SEALED, SEAL_BYTES

FIRST, SECOND = "first" * 8, "second" * 8
VALUE = b"the keeper wrote one line a day " * 40


@pytest.fixture
async def raw(tmp_path: Path) -> AsyncIterator[SummaryStore]:
    opened = await open_store(f"sqlite:{tmp_path}/store.sqlite3")
    yield opened
    await opened.close()


def with_keys(raw: SummaryStore, *keys: str) -> SealedStore:
    return SealedStore(raw, StoreKeys(keys))


async def kept(raw: SummaryStore, key: str, space: str = "one") -> bytes:
    (value,) = await raw.space(space).get_many([key])
    assert value is not None
    return value


async def test_nothing_of_a_value_lies_in_the_file(raw: SummaryStore, tmp_path: Path) -> None:
    store = with_keys(raw, FIRST).space("one")
    await store.put_many([Entry("a", VALUE), Entry("large", VALUE * 500)])
    assert await store.get_many(["a", "large", "b"]) == [VALUE, VALUE * 500, None]
    await store.delete("a")
    for file in tmp_path.iterdir():
        assert b"keeper" not in file.read_bytes()
    value = await kept(raw, "large")
    assert (value[: len(MARK)], len(value)) == (MARK, len(VALUE) * 500 + SEAL_BYTES)


async def test_every_bit_of_what_is_kept_is_checked(raw: SummaryStore) -> None:
    await with_keys(raw, FIRST).space("one").put_many([Entry("a", b"value")])
    value, store = await kept(raw, "a"), with_keys(raw, FIRST).space("one")
    for bit in range(8 * len(value)):
        changed = bytearray(value)
        changed[bit // 8] ^= 1 << bit % 8
        await raw.space("one").put_many([Entry("a", bytes(changed))])
        assert (await store.get_many(["a"]))[0] in (NO_KEY, BROKEN, NOT_SEALED)
    for length in range(len(value)):
        await raw.space("one").put_many([Entry("a", value[:length])])
        assert (await store.get_many(["a"]))[0] in (NO_KEY, BROKEN, NOT_SEALED)


async def test_a_value_opens_nowhere_but_where_it_was_put(raw: SummaryStore) -> None:
    store = with_keys(raw, FIRST)
    await store.space("one").put_many([Entry("a", b"value")])
    value = await kept(raw, "a")
    await raw.space("one").put_many([Entry("b", value)])
    await raw.space("other").put_many([Entry("a", value)])
    assert await store.space("one").get_many(["a", "b"]) == [b"value", BROKEN]
    assert await store.space("other").find("a") == (BROKEN, None)


async def test_the_first_key_seals_and_all_open(raw: SummaryStore) -> None:
    await with_keys(raw, FIRST).put_many([Entry("old", b"1")])
    both = with_keys(raw, SECOND, FIRST)
    await both.put_many([Entry("new", b"2")])
    assert await both.get_many(["old", "new"]) == [b"1", b"2"]
    assert await with_keys(raw, SECOND).get_many(["old", "new"]) == [NO_KEY, b"2"]
    assert await with_keys(raw, FIRST).get_many(["old", "new"]) == [b"1", NO_KEY]
    # an entry of the old key is changed under the new one
    await both.put_many([Entry("old", b"3")], expected={"old": b"1"})
    assert await with_keys(raw, SECOND).get_many(["old"]) == [b"3"]


async def test_what_is_not_sealed_is_not_read_and_no_key_reads_nothing_sealed(
    raw: SummaryStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Else whoever can write to the store could put vectors of their own there."""
    await raw.put_many([Entry("a", b"planted")])
    await with_keys(raw, FIRST).put_many([Entry("b", b"value")])
    with caplog.at_level(logging.WARNING):
        assert await with_keys(raw, FIRST).get_many(["a", "b"]) == [NOT_SEALED, b"value"]
        assert await with_keys(raw).get_many(["a", "b"]) == [b"planted", NO_KEY]
    assert [record.getMessage() for record in caplog.records] == [
        "a of the space server cannot be read: not sealed, as store_keys asks",
        "b of the space server cannot be read: sealed with a key that is not among store_keys",
    ]
    assert await with_keys(raw, FIRST).concerns() == [
        "some entries of the store cannot be read: not sealed, as store_keys asks"
    ]
    assert await with_keys(raw, FIRST).space("one").concerns() == []


async def test_what_cannot_be_read_is_replaced_where_that_is_expected(raw: SummaryStore) -> None:
    """As a damaged manifest is."""
    await with_keys(raw, FIRST).put_many([Entry("a", b"value")])
    store = with_keys(raw, SECOND)
    found = await store.find("a")
    assert found is not None
    with pytest.raises(EntryChanged):
        await store.put_many([Entry("a", b"new")], expected={"a": b"value"})
    await store.put_many([Entry("a", b"new")], expected={"a": found[0]})
    assert await store.get_many(["a"]) == [b"new"]


async def test_of_two_who_expect_the_same_one_is_told(raw: SummaryStore) -> None:
    store = with_keys(raw, FIRST)
    await store.put_many([Entry("a", b"value")])
    puts = [store.put_many([Entry("a", b"%d" % number)], expected={"a": b"value"}) for number in range(5)]
    done = await asyncio.gather(*puts, return_exceptions=True)
    assert sorted(type(each).__name__ for each in done) == ["EntryChanged"] * 4 + ["NoneType"]
