"""What every backend promises, on the backend as a user opens it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from server.store import (
    Budget,
    Entry,
    EntryChanged,
    EntryStat,
    Kept,
    MissingReferences,
    QuotaExceeded,
    SpaceStats,
    StillReferenced,
    StoreFull,
    SummaryStore,
    open_store,
)
from server.store.sealing import SEAL_BYTES
from tests.store.conftest import Opens

BINARY = bytes(range(256))


@pytest.fixture
def seal_bytes(backend: str) -> int:
    """What each value has more in the store."""
    return SEAL_BYTES if backend == "sealed" else 0


async def is_stored(store: SummaryStore, *keys: str) -> list[bool]:
    return [value is not None for value in await store.get_many(keys)]


async def seconds_to_live(store: SummaryStore, key: str) -> float | None:
    stat = await store.stat(key)
    assert stat is not None, f"{key} is not in the store"
    return stat.seconds_to_live


async def test_values_come_back_in_the_order_asked_for(store: SummaryStore) -> None:
    await store.put_many([Entry("a", BINARY), Entry("ü 'b'", b""), Entry("c", b"3" * 100_000)])
    assert await store.get_many(["c", "absent", "a", "ü 'b'", "a"]) == [b"3" * 100_000, None, BINARY, b"", BINARY]


async def test_nothing_asked_and_nothing_put(store: SummaryStore) -> None:
    await store.put_many([])
    assert await store.get_many([]) == []


async def test_thousands_of_entries_in_one_call(store: SummaryStore) -> None:
    """SQLite limits the parameters of a statement, and Lua how many values one call takes."""
    keys = [f"segment:{number}" for number in range(9000)]
    segments = [Entry(key, key.encode()) for key in keys]
    await store.put_many([*segments, Entry("manifest", b"m", tuple(keys))])
    assert await store.get_many(keys) == [key.encode() for key in keys]
    assert await store.delete("manifest")
    assert not any(await is_stored(store, *keys))


async def test_what_exists_is_told_without_being_read(store: SummaryStore) -> None:
    await store.put_many([Entry("a", b""), Entry("b", BINARY)])
    await store.put_many([Entry("brief", b"1")], ttl_seconds=0.02)
    await asyncio.sleep(0.05)
    assert await store.exist(["b", "absent", "a", "brief", "b"]) == [True, False, True, False, True]
    assert await store.exist([]) == []
    assert await store.exist([f"{number}" for number in range(9000)]) == [False] * 9000
    assert await store.concerns() == []


async def test_put_replaces_the_value(store: SummaryStore) -> None:
    await store.put_many([Entry("a", b"old")])
    await store.put_many([Entry("a", b"new, first"), Entry("a", b"new, last")])
    assert await store.get_many(["a"]) == [b"new, last"]


async def test_a_put_that_expects_something_else_changes_nothing(store: SummaryStore) -> None:
    await store.put_many([Entry("a", BINARY)])
    for wrong in (None, b"", BINARY + b"\x00"):
        with pytest.raises(EntryChanged):
            await store.put_many([Entry("a", b"new"), Entry("b", b"1")], expected={"a": wrong})
    with pytest.raises(EntryChanged):
        await store.put_many([Entry("c", b"1")], expected={"c": b"1"})
    assert await store.get_many(["a", "b", "c"]) == [BINARY, None, None]
    await store.put_many([Entry("a", b"new"), Entry("b", b"1")], expected={"a": BINARY, "b": None})
    await store.put_many([Entry("a", b"new")], expected={"a": BINARY})  # as if the reply had been lost
    assert await store.get_many(["a", "b"]) == [b"new", b"1"]


async def test_what_has_expired_is_expected_as_nothing(store: SummaryStore) -> None:
    await store.put_many([Entry("a", b"old")], ttl_seconds=0.02)
    await asyncio.sleep(0.05)
    with pytest.raises(EntryChanged):
        await store.put_many([Entry("a", b"new")], expected={"a": b"old"})
    await store.put_many([Entry("a", b"new")], expected={"a": None})


async def test_of_many_who_change_an_entry_none_is_lost(store: SummaryStore, store_url: str, opens: Opens) -> None:
    other = await opens(store_url)

    async def add(each: SummaryStore, number: int) -> None:
        while True:
            (value,) = await each.get_many(["a"])
            try:
                await each.put_many([Entry("a", (value or b"") + bytes([number]))], expected={"a": value})
            except EntryChanged:
                continue
            return

    await asyncio.gather(*(add(other if number % 2 else store, number) for number in range(10)))
    (value,) = await store.get_many(["a"])
    assert value is not None
    assert sorted(value) == list(range(10))
    await other.close()


async def test_a_missing_reference_changes_nothing(store: SummaryStore) -> None:
    await store.put_many([Entry("kept", b"old"), Entry("there", b"1")], ttl_seconds=60)
    with pytest.raises(MissingReferences) as caught:
        await store.put_many([Entry("kept", b"new"), Entry("m", b"2", ("there", "gone", "lost"))])
    assert set(caught.value.keys) == {"gone", "lost"}
    assert await store.get_many(["kept", "m"]) == [b"old", None]
    assert await seconds_to_live(store, "there") is not None


async def test_an_expired_reference_is_missing(store: SummaryStore) -> None:
    await store.put_many([Entry("s", b"1")], ttl_seconds=0.02)
    await asyncio.sleep(0.05)
    with pytest.raises(MissingReferences):
        await store.put_many([Entry("m", b"2", ("s",))])


async def test_references_in_the_same_call_in_any_order(store: SummaryStore) -> None:
    await store.put_many([Entry("m", b"0", ("s", "t", "s")), Entry("s", b"1"), Entry("t", b"2")])
    assert await is_stored(store, "m", "s", "t") == [True, True, True]


async def test_entries_expire(store: SummaryStore) -> None:
    await store.put_many([Entry("m", b"1", ("s",)), Entry("s", b"2")], ttl_seconds=0.05)
    await store.put_many([Entry("stays", b"3")])
    assert await is_stored(store, "m", "s") == [True, True]
    await asyncio.sleep(0.1)
    assert await is_stored(store, "m", "s", "stays") == [False, False, True]
    assert await store.stat("m") is None
    assert not await store.delete("m")


async def test_an_expired_entry_can_be_put_again(store: SummaryStore) -> None:
    await store.put_many([Entry("a", b"old")], ttl_seconds=0.02)
    await asyncio.sleep(0.05)
    await store.put_many([Entry("a", b"new")], ttl_seconds=60)
    assert await store.get_many(["a"]) == [b"new"]


async def test_stat_tells_size_and_time_to_live(store: SummaryStore, seal_bytes: int) -> None:
    await store.put_many([Entry("forever", BINARY)])
    await store.put_many([Entry("a day", b"")], ttl_seconds=86400)
    assert await store.stat("forever") == EntryStat(size_bytes=256 + seal_bytes, seconds_to_live=None)
    assert await store.stat("absent") is None
    stat = await store.stat("a day")
    assert stat is not None
    assert stat.size_bytes == seal_bytes
    assert stat.seconds_to_live == pytest.approx(86400, abs=5)


async def test_find_gives_value_and_time_to_live(store: SummaryStore) -> None:
    await store.put_many([Entry("forever", BINARY)])
    await store.put_many([Entry("a day", b"")], ttl_seconds=86400)
    assert await store.find("forever") == (BINARY, None)
    assert await store.find("absent") is None
    assert await store.find("a day") == (b"", pytest.approx(86400, abs=5))


async def test_entries_are_read_whole(store: SummaryStore) -> None:
    await store.put_many([Entry("s", BINARY), Entry("t", b"")], ttl_seconds=600)
    await store.put_many([Entry("m", b"1", ("s", "t"))], ttl_seconds=60)
    await store.put_many([Entry("pinned", b"2", ("t",), is_pinned=True)])
    await store.space("other").put_many([Entry("absent", b"3")])
    pinned, absent, document, segment = await store.read(["pinned", "absent", "m", "s"])
    assert absent is None
    assert pinned == Kept(Entry("pinned", b"2", ("t",), is_pinned=True), None)
    assert document is not None
    assert document.entry == Entry("m", b"1", ("s", "t"))
    assert document.seconds_to_live == pytest.approx(60, abs=5)
    assert segment == Kept(Entry("s", BINARY), pytest.approx(600, abs=5))
    assert await store.read([]) == []


@pytest.mark.parametrize(
    ("first", "second", "result"), [(60, 600, 600), (600, 60, 600), (60, None, None), (None, 60, None)]
)
async def test_a_time_to_live_only_lengthens(
    store: SummaryStore, first: float | None, second: float | None, result: float | None
) -> None:
    await store.put_many([Entry("a", b"1")], ttl_seconds=first)
    await store.put_many([Entry("a", b"2")], ttl_seconds=second)
    expected = None if result is None else pytest.approx(result, abs=5)
    assert await seconds_to_live(store, "a") == expected


@pytest.mark.parametrize(
    ("segment", "manifest", "result"), [(60, 600, 600), (600, 60, 600), (60, None, None), (None, 60, None)]
)
async def test_references_live_as_long_as_the_entry(
    store: SummaryStore, segment: float | None, manifest: float | None, result: float | None
) -> None:
    await store.put_many([Entry("s", b"1")], ttl_seconds=segment)
    await store.put_many([Entry("m", b"2", ("s",))], ttl_seconds=manifest)
    expected = None if result is None else pytest.approx(result, abs=5)
    assert await seconds_to_live(store, "s") == expected


async def test_references_are_lengthened_to_what_the_entry_had_left(store: SummaryStore) -> None:
    """A manifest put again with a shorter time to live keeps its own, and a segment new to it must live as long."""
    await store.put_many([Entry("m", b"1")])
    await store.put_many([Entry("m", b"2", ("s",)), Entry("s", b"3")], ttl_seconds=60)
    assert await seconds_to_live(store, "m") is None
    assert await seconds_to_live(store, "s") is None


async def test_references_of_references_live_as_long(store: SummaryStore) -> None:
    await store.put_many([Entry("b", b"1", ("c",)), Entry("c", b"2")], ttl_seconds=0.05)
    await store.put_many([Entry("a", b"3", ("b",))], ttl_seconds=600)
    assert await seconds_to_live(store, "c") == pytest.approx(600, abs=5)
    await asyncio.sleep(0.1)
    assert await store.delete("a")
    assert await is_stored(store, "b", "c") == [False, False]


async def test_a_referrer_counts_for_as_long_as_its_own_referrer_makes_it_live(store: SummaryStore) -> None:
    """What the middle of a chain holds must not be let go after the time of the call that put it."""
    await store.put_many([Entry("a", b"1")])
    await store.put_many([Entry("a", b"1", ("b",)), Entry("b", b"2", ("c",)), Entry("c", b"3")], ttl_seconds=0.05)
    await asyncio.sleep(0.1)
    with pytest.raises(StillReferenced):
        await store.delete("c")


@pytest.mark.parametrize(
    ("first", "second", "result"), [(60, 600, 600), (600, 60, 600), (60, None, None), (None, 60, None)]
)
async def test_a_touch_lengthens_an_entry_and_what_it_references(
    store: SummaryStore, first: float | None, second: float | None, result: float | None
) -> None:
    await store.put_many([Entry("m", b"1", ("s",)), Entry("s", b"2", ("t",)), Entry("t", b"3")], ttl_seconds=first)
    assert await store.touch(["m", "absent"], ttl_seconds=second) == [True, False]
    expected = None if result is None else pytest.approx(result, abs=5)
    assert [await seconds_to_live(store, key) for key in "mst"] == [expected] * 3
    assert await store.get_many(["m", "absent"]) == [b"1", None]


async def test_a_touched_referrer_still_counts_and_is_listed(store: SummaryStore) -> None:
    await store.put_many([Entry("s", b"1"), Entry("m", b"2", ("s",))], ttl_seconds=0.05)
    await store.touch(["m"], ttl_seconds=60)
    await asyncio.sleep(0.1)
    assert await store.list_referrers(limit=2) == ["m"]
    with pytest.raises(StillReferenced):
        await store.delete("s")


async def test_what_has_expired_is_not_touched(store: SummaryStore) -> None:
    await store.put_many([Entry("a", b"1")], ttl_seconds=0.02)
    await asyncio.sleep(0.05)
    assert await store.touch(["a"], ttl_seconds=None) == [False]
    assert await store.get_many(["a"]) == [None]


@pytest.mark.parametrize("ttl_seconds", [0, -1, float("nan"), float("inf")])
async def test_a_time_to_live_that_is_none_is_refused(store: SummaryStore, ttl_seconds: float) -> None:
    with pytest.raises(ValueError, match="ttl_seconds"):
        await store.put_many([Entry("a", b"1")], ttl_seconds=ttl_seconds)
    assert await store.get_many(["a"]) == [None]


async def test_delete_takes_what_only_it_referenced(store: SummaryStore) -> None:
    await store.put_many([Entry(key, b"1") for key in ("own", "shared", "unrelated")])
    await store.put_many([Entry("m", b"2", ("own", "shared")), Entry("n", b"3", ("shared",))])
    assert await store.delete("m")
    assert await is_stored(store, "m", "own", "shared", "n", "unrelated") == [False, False, True, True, True]
    assert await store.delete("n")
    assert await is_stored(store, "shared", "unrelated") == [False, True]
    assert not await store.delete("n")


async def test_delete_takes_references_of_references(store: SummaryStore) -> None:
    await store.put_many([Entry("a", b"1", ("b",)), Entry("b", b"2", ("c",)), Entry("c", b"3")])
    assert await store.delete("a")
    assert await is_stored(store, "b", "c") == [False, False]


async def test_an_expired_referrer_keeps_nothing(store: SummaryStore) -> None:
    await store.put_many([Entry("s", b"1"), Entry("m", b"2", ("s",))])
    await store.put_many([Entry("brief", b"3", ("s",))], ttl_seconds=0.02)
    await asyncio.sleep(0.05)
    assert await store.delete("m")
    assert await is_stored(store, "s") == [False]


async def test_a_referrer_is_remembered_for_as_long_as_it_lives(store: SummaryStore) -> None:
    """What one referrer's expiry takes along must not be the memory of another."""
    await store.put_many([Entry("s", b"1")])
    await store.put_many([Entry("brief", b"2", ("s",))], ttl_seconds=0.02)
    await store.put_many([Entry("long", b"3", ("s",))], ttl_seconds=60)
    await store.put_many([Entry("brief too", b"4", ("s",))], ttl_seconds=0.02)
    await asyncio.sleep(0.05)
    await store.put_many([Entry("m", b"5", ("s",))], ttl_seconds=60)
    assert await store.delete("m")
    assert await is_stored(store, "s") == [True]


async def test_a_lengthened_referrer_still_counts(store: SummaryStore) -> None:
    """Put again for longer, a manifest still holds its segments after its first expiry."""
    await store.put_many([Entry("s", b"1"), Entry("m", b"2", ("s",))], ttl_seconds=0.05)
    await store.put_many([Entry("m", b"2", ("s",))], ttl_seconds=60)
    await asyncio.sleep(0.1)
    await store.put_many([Entry("n", b"3", ("s",))], ttl_seconds=60)
    assert await store.delete("n")
    assert await is_stored(store, "m", "s") == [True, True]


async def test_replaced_references_hold_nothing(store: SummaryStore) -> None:
    await store.put_many([Entry("s", b"1"), Entry("t", b"2"), Entry("m", b"3", ("s",))])
    await store.put_many([Entry("m", b"4", ("t",))])
    assert await is_stored(store, "s") == [True]
    assert await store.delete("s")
    assert await store.delete("m")
    assert await is_stored(store, "t") == [False]


async def test_replacing_an_entry_keeps_its_referrers(store: SummaryStore) -> None:
    await store.put_many([Entry("s", b"1"), Entry("m", b"2", ("s",)), Entry("n", b"3", ("s",))])
    await store.put_many([Entry("s", b"new")])
    assert await store.delete("m")
    assert await store.get_many(["s"]) == [b"new"]


async def test_what_is_referenced_cannot_be_deleted(store: SummaryStore) -> None:
    await store.put_many([Entry("s", b"1"), Entry("m", b"2", ("s",))])
    with pytest.raises(StillReferenced):
        await store.delete("s")
    assert await is_stored(store, "m", "s") == [True, True]


async def test_an_entry_that_references_itself_is_refused() -> None:
    with pytest.raises(ValueError, match="references itself"):
        Entry("a", b"1", ("a",))


async def test_a_put_races_a_delete(store: SummaryStore, store_url: str, opens: Opens) -> None:
    """A document that shares segments with one being deleted is whole, or is refused."""
    other = await opens(store_url)
    refused = 0
    for number in range(40):
        await store.put_many([Entry("s", b"1"), Entry("t", b"2"), Entry("m", b"3", ("s", "t"))])
        put = other.put_many([Entry("n", b"4", ("s", "t"))])
        calls = [store.delete("m"), put] if number % 2 else [put, store.delete("m")]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert all(isinstance(error, MissingReferences) for error in errors)
        refused += len(errors)
        assert await is_stored(store, "m", "n", "s", "t") == [False, *[not errors] * 3]
        await store.delete("n")
    await other.close()
    assert 0 < refused < 40


async def test_another_client_reads_what_was_put(store: SummaryStore, store_url: str, opens: Opens) -> None:
    await store.put_many([Entry("a", BINARY)])
    other = await opens(store_url)
    assert await other.get_many(["a"]) == [BINARY]
    await other.close()
    await store.ping()


async def test_referrers_are_listed_latest_first(store: SummaryStore) -> None:
    for number in range(5):
        segment = Entry(f"s{number}", b"1")
        await store.put_many([segment, Entry(f"m{number}", b"2", (segment.key,))])
    await store.put_many([Entry("m0", b"again", ("s0",))])
    assert await store.list_referrers(limit=10) == ["m4", "m3", "m2", "m1", "m0"]
    assert await store.list_referrers(limit=2) == ["m4", "m3"]
    assert await store.list_referrers(limit=2, after="m3") == ["m2", "m1"]
    assert await store.list_referrers(limit=2, after="m0") == []
    await store.delete("m3")
    assert await store.list_referrers(limit=2) == ["m4", "m2"]
    for no_referrer in ("s3", "s1", "absent"):
        assert await store.list_referrers(limit=2, after=no_referrer) is None


async def test_what_has_expired_is_not_listed_and_comes_back_as_new(store: SummaryStore) -> None:
    await store.put_many([Entry("s", b"1"), Entry("old", b"2", ("s",))], ttl_seconds=0.05)
    await store.put_many([Entry("t", b"1"), Entry("m", b"2", ("t",))])
    await asyncio.sleep(0.1)
    assert await store.list_referrers(limit=10) == ["m"]
    await store.put_many([Entry("s", b"1"), Entry("old", b"2", ("s",))])
    assert await store.list_referrers(limit=10) == ["old", "m"]


async def test_a_list_goes_on_after_what_is_gone(store: SummaryStore) -> None:
    """Whoever deletes what a page shows got 404 for the next page."""
    for number in range(6):
        segment = Entry(f"s{number}", b"1")
        await store.put_many([segment, Entry(f"m{number}", b"2", (segment.key,))])
    for gone in ("m3", "m5", "m0"):
        await store.delete(gone)
    assert await store.list_referrers(limit=2, after="m3") == ["m2", "m1"]
    assert await store.list_referrers(limit=2, after="m5") == ["m4", "m2"]
    assert await store.list_referrers(limit=2, after="m0") == []
    await store.put_many([Entry("s3", b"1"), Entry("m3", b"again", ("s3",))])
    assert await store.list_referrers(limit=5, after="m3") == ["m4", "m2", "m1"]
    assert await store.list_referrers(limit=2, after="never") is None


async def test_a_list_goes_on_after_what_has_expired(store: SummaryStore) -> None:
    for number, ttl_seconds in enumerate([None, None, 0.05, None]):
        segments = [Entry(f"s{number}.{each}", b"1") for each in range(70)]  # more than one sweep takes
        manifest = Entry(f"m{number}", b"2", tuple(segment.key for segment in segments))
        await store.put_many([*segments, manifest], ttl_seconds=ttl_seconds)
    await asyncio.sleep(0.1)
    assert await store.list_referrers(limit=5, after="m2") == ["m1", "m0"]
    for number in range(10):
        await store.put_many([Entry(f"sweeps {number}", b"")])
    assert await store.list_referrers(limit=5, after="m2") == ["m1", "m0"]


async def test_spaces_know_nothing_of_one_another(store: SummaryStore) -> None:
    one, other = store.space("one"), store.space("other")
    await one.put_many([Entry("s", b"1"), Entry("m", b"2", ("s",))])
    await other.put_many([Entry("m", BINARY)])
    with pytest.raises(MissingReferences):
        await other.put_many([Entry("n", b"3", ("s",))])
    with pytest.raises(EntryChanged):
        await other.put_many([Entry("s", b"3")], expected={"s": b"1"})
    assert await store.get_many(["m", "s"]) == [None, None]
    assert await other.get_many(["m", "s"]) == [BINARY, None]
    assert [await each.exist(["s"]) for each in (store, one, other)] == [[False], [True], [False]]
    assert [await each.find("m") for each in (store, one)] == [None, (b"2", None)]
    assert [await each.stat("s") for each in (store, other)] == [None, None]
    assert await other.touch(["s", "m"], ttl_seconds=60) == [False, True]
    assert not await other.delete("s")
    assert await other.delete("m")
    assert await one.get_many(["m", "s"]) == [b"2", b"1"]


async def test_a_list_is_a_space_s_own(store: SummaryStore) -> None:
    one, other = store.space("one"), store.space("other")
    for number in range(3):
        for each in (one, other):
            await each.put_many([Entry(f"s{number}", b"1"), Entry(f"m{number}", b"2", (f"s{number}",))])
    await other.delete("m2")
    assert await one.list_referrers(limit=5) == ["m2", "m1", "m0"]
    assert await other.list_referrers(limit=5) == ["m1", "m0"]
    assert await other.list_referrers(limit=5, after="m2") == ["m1", "m0"]
    assert await store.list_referrers(limit=5) == []
    await store.space("third").put_many([Entry("m9", b"1")])
    assert await one.list_referrers(limit=5, after="m9") is None


async def test_the_first_space_is_the_server_s_own(store: SummaryStore) -> None:
    await store.put_many([Entry("a", b"1")])
    assert await store.space("server").get_many(["a"]) == [b"1"]
    assert await store.space("one").space("server").get_many(["a"]) == [b"1"]


@pytest.mark.parametrize("name", ["", "a b", "{a}", "a:b", "ü", "a" * 65, "a\n"])
async def test_a_space_has_a_plain_name(store: SummaryStore, name: str) -> None:
    with pytest.raises(ValueError, match="a space has a name of 1 to 64"):
        store.space(name)


async def test_stats_and_keys_are_those_of_live_entries(store: SummaryStore, seal_bytes: int) -> None:
    one = store.space("one")
    keys = {f"s{number}" for number in range(1200)}
    await one.put_many([*(Entry(key, b"12") for key in keys), Entry("m", b"3", tuple(keys))])
    await store.put_many([Entry("a", b"1234")])
    await store.put_many([Entry("a", b"123"), Entry("brief", b"1")], ttl_seconds=None)
    await store.space("gone").put_many([Entry("t", b"1"), Entry("n", b"2", ("t",))], ttl_seconds=0.02)
    await store.space("deleted").put_many([Entry("t", b"1"), Entry("n", b"2", ("t",))])
    await store.space("deleted").delete("n")
    await store.put_many([Entry("expires", b"1")], ttl_seconds=0.02)
    await asyncio.sleep(0.05)
    sizes = (2401 + 1201 * seal_bytes, 4 + 2 * seal_bytes)
    assert await store.stats() == [SpaceStats("one", 1201, 1, sizes[0]), SpaceStats("server", 2, 0, sizes[1])]
    assert {key async for some in one.walk() for key in some} == keys | {"m"}
    assert {key async for some in store.walk() for key in some} == {"a", "brief"}
    assert [key async for some in store.space("none").walk() for key in some] == []


async def test_a_sweep_removes_what_has_expired(store: SummaryStore, seal_bytes: int) -> None:
    for space in ("one", "other"):
        await store.space(space).put_many([Entry("stays", b"1")])
        many = [Entry(f"{number}", b"1") for number in range(1500)]
        await store.space(space).put_many(many, ttl_seconds=0.02)
    await asyncio.sleep(0.05)
    swept = await store.sweep()
    assert 2500 < swept.entries <= 3000  # a put sweeps some
    assert (await store.sweep()).entries == 0
    assert await store.stats() == [SpaceStats(name, 1, 0, 1 + seal_bytes) for name in ("one", "other")]


@pytest.fixture
async def bounded(backend: str, store_url: str) -> AsyncIterator["Bounded"]:
    if backend == "sealed":
        pytest.skip("what is sealed is counted as the backend below has it")
    opened = Bounded()
    opened.store = await open_store(store_url, budget=Budget(100, opened.heard.append, opened.evicted.append))
    yield opened
    await opened.store.close()


class Bounded:
    """A store of 100 bytes, and what it said of them."""

    store: SummaryStore

    def __init__(self) -> None:
        self.heard: list[int] = []
        self.evicted: list[int] = []

    async def put(self, name: str, size: int = 20, *, space: str = "one", **fields: Any) -> None:
        """A document with that many bytes in a segment of its own."""
        entries = [Entry(f"s{name}", b"x" * size), Entry(name, b"", (f"s{name}",), **fields)]
        await self.store.space(space).put_many(entries)
        await asyncio.sleep(0.002)  # uses are told apart by milliseconds


async def test_the_least_recently_used_document_goes_whole(bounded: Bounded) -> None:
    for name in "abcde":
        await bounded.put(name, space="one" if name in "ace" else "other")
    assert (bounded.heard[-1], bounded.evicted) == (100, [])
    one, other = bounded.store.space("one"), bounded.store.space("other")
    one.use(["a"])
    await other.touch(["b"], ttl_seconds=60)
    await one.list_referrers(limit=5)
    await one.get_many(["c"])  # a read is no use by itself
    await bounded.put("f", 30)
    assert await one.exist(["a", "sa", "c", "sc", "e", "se", "f"]) == [True, True, False, False, True, True, True]
    assert await other.exist(["b", "sb", "d", "sd"]) == [True, True, False, False]
    assert (bounded.heard[-1], bounded.evicted) == (90, [2])


async def test_what_is_pinned_or_no_document_is_never_evicted(bounded: Bounded) -> None:
    await bounded.store.put_many([Entry("secret", b"x" * 10)])
    await bounded.put("pinned", 50, is_pinned=True)
    await bounded.put("a", 30)
    with pytest.raises(StoreFull):
        await bounded.put("b", 60)
    one = bounded.store.space("one")
    assert await one.exist(["pinned", "spinned", "b", "sb"]) == [True, True, False, False]
    await bounded.put("b", 40)
    assert await one.exist(["pinned", "spinned", "a", "sa", "b"]) == [True, True, False, False, True]
    assert await bounded.store.exist(["secret"]) == [True]
    await bounded.put("pinned", 50)  # no longer
    await bounded.put("c", 60)
    assert await one.exist(["pinned", "b", "c"]) == [False, False, True]


async def test_more_than_all_the_room_is_refused_and_nothing_goes_for_it(bounded: Bounded) -> None:
    await bounded.put("a")
    with pytest.raises(StoreFull, match=r"bytes, and the limit is 100"):
        await bounded.put("b", 101)
    assert await bounded.store.space("one").exist(["a", "sa", "b", "sb"]) == [True, True, False, False]
    assert bounded.evicted == []


async def test_what_a_live_document_needs_stays(bounded: Bounded) -> None:
    one = bounded.store.space("one")
    await one.put_many([Entry("shared", b"x" * 20)])
    await one.put_many([Entry("old", b"", ("shared", "own")), Entry("own", b"x" * 20)])
    await asyncio.sleep(0.002)
    await one.put_many([Entry("kept", b"", ("shared",))])
    await one.put_many([Entry("new", b"x" * 70, ("shared",))])
    assert await one.exist(["old", "own", "shared", "kept", "new"]) == [False, False, True, True, True]


async def test_a_put_does_not_evict_what_it_needs(bounded: Bounded) -> None:
    """The only document that may go holds the segments of the one that is put."""
    one = bounded.store.space("one")
    await one.put_many([Entry("shared", b"x" * 20), Entry("own", b"x" * 40), Entry("old", b"", ("shared", "own"))])
    await one.put_many([Entry("new", b"x" * 60, ("shared",))])
    assert await one.exist(["old", "own", "shared", "new"]) == [False, False, True, True]


async def test_what_has_expired_goes_before_anything_that_lives(bounded: Bounded) -> None:
    await bounded.put("a", 40)
    await bounded.store.space("other").put_many([Entry(f"{n}", b"x" * 10) for n in range(6)], ttl_seconds=0.02)
    await asyncio.sleep(0.05)
    await bounded.put("b", 60)
    assert await bounded.store.space("one").exist(["a", "b"]) == [True, True]
    assert bounded.evicted == []


async def test_what_is_replaced_counts_once(bounded: Bounded) -> None:
    await bounded.put("a", 60)
    await bounded.put("b", 40)
    for size in (40, 30, 40):
        await bounded.put("b", size)
    assert (bounded.heard[-1], bounded.evicted) == (100, [])


async def test_a_space_s_bytes_are_counted_and_bounded_by_its_own_quota(store_url: str) -> None:
    """A put over it changes nothing; what replaces, expires and is deleted makes room; other spaces do not know."""
    quotas = {"mine": 100}
    store = await open_store(store_url, budget=Budget(quotas=quotas))
    mine, other = store.space("mine"), store.space("other")
    await mine.put_many([Entry("a", b"1" * 40), Entry("b", b"2" * 40)])
    await other.put_many([Entry("a", b"1" * 400)])
    assert [await each.size_bytes() for each in (mine, other, store.space("none"))] == [80, 400, 0]
    for refused in ([Entry("c", b"3" * 21)], [Entry("c", b"3"), Entry("a", b"1" * 61)]):
        with pytest.raises(QuotaExceeded, match=r"the space has 10[12] bytes, and its limit is 100"):
            await mine.put_many(refused)
    assert (await mine.get_many(["a", "c"]), await mine.size_bytes()) == ([b"1" * 40, None], 80)
    await mine.put_many([Entry("c", b"3" * 20)], ttl_seconds=0.05)
    await mine.put_many([Entry("b", b"4" * 30)])
    assert await mine.size_bytes() == 90
    quotas["mine"] = 50  # it is over it now, and may do what takes no more
    await mine.put_many([Entry("b", b"5" * 30)])
    with pytest.raises(QuotaExceeded):
        await mine.put_many([Entry("d", b"6")])
    assert await mine.delete("a")
    await asyncio.sleep(0.1)
    await mine.put_many([Entry("d", b"6" * 20)])
    assert await mine.size_bytes() == 50
    await store.close()
