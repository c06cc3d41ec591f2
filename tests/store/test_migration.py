"""Stores that are copied into others, and sealed anew where they are."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from server.store import Entry, Kept, SealedStore, StoreKeys, SummaryStore, open_store
from server.store.migration import Moved, copied, sealed_anew
from server.store.sealing import MARK, NO_KEY
from tests.store.conftest import STORE_KEYS, Opens

FIRST, SECOND = STORE_KEYS


async def done(moves: AsyncIterator[Moved]) -> tuple[int, int, list[str]]:
    found = [each async for each in moves]
    return (
        sum(each.copied for each in found),
        sum(each.were_there for each in found),
        [key for each in found for key in each.left],
    )


async def everything(store: SummaryStore) -> dict[str, dict[str, Kept]]:
    found = {}
    for each in await store.stats():
        space = store.space(each.space)
        keys = [key async for some in space.walk() for key in some]
        read = await space.read(keys)
        found[each.space] = {key: kept for key, kept in zip(keys, read, strict=True) if kept is not None}
    return found


async def fill(store: SummaryStore) -> None:
    """Documents that share a segment, one that references another, one pinned, a response and a secret."""
    one = store.space("one")
    await one.put_many([Entry("segment:shared", b"0" * 1000)], ttl_seconds=60)
    for number in (3, 1, 2):
        entries = [Entry(f"segment:{number}", b"%d" % number), Entry(f"text:{number}", b"t")]
        document = Entry(f"manifest:{number}", b"m", ("segment:shared", f"segment:{number}", f"text:{number}"))
        await one.put_many([*entries, document], ttl_seconds=600 * number)
    await one.put_many([Entry("manifest:pinned", b"p", ("segment:1",), is_pinned=True)])
    await one.put_many([Entry("of others", b"o", ("manifest:3",))], ttl_seconds=60)
    await one.put_many([Entry("manifest:3", b"new", ("segment:3", "of-segments")), Entry("of-segments", b"")])
    await store.space("two").put_many([Entry("response:r", bytes(5000))], ttl_seconds=90)
    await store.put_many([Entry("secret:export", b"s" * 32)])


def same(one: dict[str, dict[str, Kept]], other: dict[str, dict[str, Kept]]) -> bool:
    def near(kept: Kept) -> tuple[object, ...]:
        left = kept.seconds_to_live
        references = tuple(sorted(kept.entry.references))
        return kept.entry.value, references, kept.entry.is_pinned, None if left is None else round(left / 10)

    return {name: {key: near(kept) for key, kept in space.items()} for name, space in one.items()} == {
        name: {key: near(kept) for key, kept in space.items()} for name, space in other.items()
    }


async def test_all_of_a_store_is_copied_to_another(store: SummaryStore, tmp_path: Path) -> None:
    await fill(store)
    other = SealedStore(await open_store(f"sqlite:{tmp_path}/copy.sqlite3"), StoreKeys([FIRST]))
    num_copied, were_there, left = await done(copied(store, other))
    assert (num_copied, were_there, left) == (15, 0, [])
    assert same(await everything(store), await everything(other))
    one, copy = store.space("one"), other.space("one")
    assert await copy.list_referrers(limit=9) == await one.list_referrers(limit=9)
    # again, after changes: what may have changed is written, what is a hash of itself is not
    await one.put_many(
        [
            Entry("manifest:1", b"changed", ("segment:1",)),
            Entry("late", b"l", ("segment:late",)),
            Entry("segment:late", b""),
        ]
    )
    assert await done(copied(store, other)) == (10, 7, [])
    assert (await copy.get_many(["manifest:1", "late"])) == [b"changed", b"l"]
    await copy.delete("late")
    assert await copy.exist(["segment:late", "segment:1"]) == [False, True]
    await other.close()


async def test_a_file_is_copied_into_each_backend_and_begun_again(store: SummaryStore, tmp_path: Path) -> None:
    source = await open_store(f"sqlite:{tmp_path}/source.sqlite3")
    await fill(source)
    async for _ in copied(source, store):  # cut off
        break
    await done(copied(source, store))
    assert same(await everything(source), await everything(store))
    assert await store.space("one").list_referrers(limit=9) == await source.space("one").list_referrers(limit=9)
    await source.close()


async def test_a_segment_that_is_put_while_its_document_is_copied_goes_with_it(tmp_path: Path) -> None:
    source, target = [await open_store(f"sqlite:{tmp_path}/{name}.sqlite3") for name in ("one", "other")]
    await source.put_many([Entry("a", b"1", ("s",)), Entry("s", b"2")])
    moves = copied(source, target)
    await anext(moves)
    await source.put_many([Entry("a", b"3", ("s", "new", "b")), Entry("new", b"4"), Entry("b", b"5", ("s",))])
    await done(moves)
    assert await target.get_many(["a", "s", "new", "b"]) == [b"3", b"2", b"4", b"5"]
    assert (await target.read(["a"]))[0] == (await source.read(["a"]))[0]
    for each in (source, target):
        await each.close()


async def test_what_cannot_be_opened_is_named_and_not_copied(tmp_path: Path) -> None:
    source, target = [await open_store(f"sqlite:{tmp_path}/{name}.sqlite3") for name in ("one", "other")]
    await SealedStore(source, StoreKeys([FIRST])).put_many(
        [Entry("a", b"1", ("s",)), Entry("s", b"2"), Entry("b", b"3")]
    )
    await source.put_many([Entry("plain", b"4"), Entry("whole", b"5", ("plain", "s"))])
    opened = SealedStore(source, StoreKeys([SECOND]), takes_plain=True)
    num_copied, _, left = await done(copied(opened, target))
    assert (num_copied, sorted(left)) == (1, ["a", "b", "s", "whole"])
    assert await target.get_many(["a", "b", "s", "plain"]) == [None, None, None, b"4"]
    for each in (source, target):
        await each.close()


@pytest.mark.parametrize("backend", ["embedded", pytest.param("redis", marks=pytest.mark.redis)], indirect=True)
async def test_a_store_is_sealed_where_it_is_then_by_another_key_then_not(store_url: str, opens: Opens) -> None:
    raw = await open_store(store_url)
    await fill(raw)
    before, order = await everything(raw), await raw.space("one").list_referrers(limit=9)
    for keys in (StoreKeys([FIRST]), StoreKeys([SECOND, FIRST]), StoreKeys([SECOND], seals=False)):
        assert await done(sealed_anew(raw, keys)) == (15, 0, [])
        assert await done(sealed_anew(raw, keys)) == (0, 15, [])
        assert same(before, await everything(SealedStore(raw, keys, takes_plain=True)))
        assert await raw.space("one").list_referrers(limit=9) == order
        values = [kept.entry.value for space in (await everything(raw)).values() for kept in space.values()]
        assert {value.startswith(MARK) for value in values} == {keys.seals}
    assert same(before, await everything(raw))
    await raw.close()


async def test_what_is_written_while_it_is_sealed_stays(tmp_path: Path) -> None:
    raw, keys = await open_store(f"sqlite:{tmp_path}/store.sqlite3"), StoreKeys([SECOND, FIRST])
    server = SealedStore(raw, keys)
    await SealedStore(raw, StoreKeys([FIRST])).put_many([Entry(f"{number}", b"0") for number in range(300)])

    async def count(number: int) -> None:
        for _ in range(5):
            (value,) = await server.get_many([f"{number}"])
            assert value is not None
            await server.put_many([Entry(f"{number}", b"%d" % (int(value) + 1))], expected={f"{number}": value})

    await asyncio.gather(done(sealed_anew(raw, keys)), *(count(number) for number in range(0, 300, 10)))
    await done(sealed_anew(raw, keys))
    values = await SealedStore(raw, StoreKeys([SECOND])).get_many([f"{number}" for number in range(300)])
    assert values == [b"0" if number % 10 else b"5" for number in range(300)]
    assert NO_KEY in await SealedStore(raw, StoreKeys([FIRST])).get_many(["0"])
    await raw.close()
