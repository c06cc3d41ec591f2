"""What only the store in Redis promises."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis

from server.store import Budget, Entry, RedisStore, StoreFull, StoreUnavailable, open_store
from server.store.redis.connect import connect
from tests.redis_server import free_port, running_redis

pytestmark = pytest.mark.redis


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[RedisStore]:
    opened = RedisStore(connect(redis_url))
    yield opened
    await opened.close()


def kill(url: str) -> None:
    with redis.Redis.from_url(url) as client:
        os.kill(client.info("server")["process_id"], signal.SIGKILL)


PREFIX = "autocompressor:2:{server}:"


def kept_keys(client: redis.Redis) -> set[str]:
    """All but places of what is gone, which expire by themselves."""
    keys = {key.decode() for key in client.keys("*")}
    places = {key for key in keys if key.startswith(f"{PREFIX}place:")}
    assert all(client.pttl(key) > 0 for key in places)
    return keys - places


async def test_an_acknowledged_put_survives_a_kill_and_the_client_reconnects(tmp_path: Path) -> None:
    port = free_port()
    with running_redis(tmp_path, port=port) as url:
        store = RedisStore(connect(url))
        await store.put_many([Entry("s", b"1"), Entry("m", b"2", ("s",))])
        await store.put_many([Entry("brief", b"3")], ttl_seconds=60)
        kill(url)
        with pytest.raises(StoreUnavailable):
            await store.get_many(["s"])
    with running_redis(tmp_path, port=port):
        assert await store.get_many(["s", "m", "brief"]) == [b"1", b"2", b"3"]
        assert await store.delete("m")
        assert await store.get_many(["s"]) == [None]
        await store.close()


async def test_connections_dropped_while_idle_are_not_noticed(store: RedisStore, redis_url: str) -> None:
    await store.put_many([Entry("a", b"1")])
    with redis.Redis.from_url(redis_url) as client:
        assert client.client_kill_filter(_type="normal", skipme=True) >= 1
    await store.put_many([Entry("b", b"2")])
    assert await store.get_many(["a", "b"]) == [b"1", b"2"]


async def test_a_server_that_is_down_is_unavailable_at_once() -> None:
    store = RedisStore(connect(f"redis://127.0.0.1:{free_port()}/0"))
    started = time.monotonic()
    with pytest.raises(StoreUnavailable):
        await store.ping()
    with pytest.raises(StoreUnavailable):
        await store.put_many([Entry("a", b"1")])
    with pytest.raises(StoreUnavailable):
        await store.stat("a")
    assert time.monotonic() - started < 3
    await store.close()


@pytest.mark.parametrize("url", ["redis://host:port/0", "redis://host/0?socket_timeout=x", "redis://host/0?color=1"])
def test_a_url_that_cannot_work_is_refused_before_it_is_used(url: str) -> None:
    with pytest.raises(ValueError, match=r"port|socket_timeout|color"):
        RedisStore(connect(url))


async def test_a_unix_socket(tmp_path: Path) -> None:
    with running_redis(tmp_path, arguments=["--unixsocket", str(tmp_path / "redis")]):
        store = await open_store(f"unix://{tmp_path / 'redis'}?db=1")
        await store.put_many([Entry("a", b"1")])
        assert await store.get_many(["a"]) == [b"1"]
        await store.close()


async def test_a_server_that_does_not_answer_is_unavailable(redis_url: str) -> None:
    store = RedisStore(connect(f"{redis_url}?socket_timeout=0.1"))
    await store.ping()
    with redis.Redis.from_url(redis_url) as client:
        client.client_pause(1000)
    with pytest.raises(StoreUnavailable):
        await store.put_many([Entry("a", b"1")])
    with redis.Redis.from_url(redis_url) as client:
        client.client_unpause()
    await store.close()


async def test_a_server_at_its_memory_limit_is_store_full_and_changes_nothing(tmp_path: Path) -> None:
    with running_redis(tmp_path, arguments=["--maxmemory-policy", "noeviction"]) as url:
        store = RedisStore(connect(url))
        await store.put_many([Entry("a", b"old"), Entry("s", b"1"), Entry("m", b"2", ("s",))])
        with redis.Redis.from_url(url) as client:
            client.config_set("maxmemory", "1mb")
            with pytest.raises(StoreFull):
                await store.put_many([Entry("a", b"new"), Entry("b", b"3")], ttl_seconds=60)
            with pytest.raises(StoreFull):
                await store.ping()
            assert await store.get_many(["a", "b", "s"]) == [b"old", None, b"1"]
            assert await store.delete("m")
            client.config_set("maxmemory", "0")
        await store.ping()
        await store.put_many([Entry("b", b"3")])
        await store.close()


async def test_a_put_is_written_whole_or_not_at_all_by_a_growing_server(tmp_path: Path) -> None:
    """The limit is reached in the middle of a call: what the call began, it completes."""
    with running_redis(tmp_path, arguments=["--maxmemory", "6mb", "--maxmemory-policy", "noeviction"]) as url:
        store = RedisStore(connect(url))
        segments = [Entry(f"s{number}", b"x" * 100_000) for number in range(100)]
        for size in range(10, 101, 10):
            keys = tuple(entry.key for entry in segments[:size])
            try:
                await store.put_many([*segments[:size], Entry("m", b"manifest", keys)])
            except StoreFull:
                break
            assert None not in await store.get_many(["m", *keys])
        else:
            pytest.fail("the server was never full")
        await store.close()


async def test_everything_of_an_expiring_document_expires(store: RedisStore, redis_url: str) -> None:
    """Nor do the names of referrers pile up on a segment that is kept for ever."""
    await store.put_many([Entry("kept", b"0")])
    for number in range(5):
        document = [Entry(f"m{number}", b"1", ("kept", f"s{number}")), Entry(f"s{number}", b"2")]
        await store.put_many(document, ttl_seconds=0.02)
        await asyncio.sleep(0.03)
    await store.sweep()
    with redis.Redis.from_url(redis_url) as client:
        kept = {f"{PREFIX}value:kept", f"{PREFIX}sizes", f"{PREFIX}bytes", "autocompressor:2:spaces"}
        assert kept_keys(client) == kept
        assert client.hgetall(f"{PREFIX}sizes") == {b"kept": b"1"}
    await store.put_many([Entry("long", b"1", ("kept",))])
    await store.put_many([Entry("m5", b"1", ("kept",))], ttl_seconds=0.02)
    await asyncio.sleep(0.03)
    await store.put_many([Entry("longer", b"1", ("kept",))])
    with redis.Redis.from_url(redis_url) as client:
        assert set(client.zrange(f"{PREFIX}referrers:kept", 0, -1)) == {b"long", b"longer"}


async def test_a_deleted_document_leaves_nothing(store: RedisStore, redis_url: str) -> None:
    await store.put_many([Entry("m", b"1", ("s", "t")), Entry("s", b"2"), Entry("t", b"3")], ttl_seconds=60)
    await store.delete("m")
    with redis.Redis.from_url(redis_url) as client:
        assert kept_keys(client) == set()


async def test_the_books_of_a_space_expire_with_its_last_entry(store: RedisStore, redis_url: str) -> None:
    """A tenant that never comes back left them for good."""
    space = store.space("tenant")
    await space.put_many([Entry("m", b"1", ("s",)), Entry("s", b"2")], ttl_seconds=0.05)
    await space.put_many([Entry("n", b"1", ("s",))], ttl_seconds=0.2)
    await space.touch(["n"], ttl_seconds=0.3)
    await asyncio.sleep(0.1)
    assert await space.list_referrers(limit=5) == ["n"]
    await asyncio.sleep(0.3)
    with redis.Redis.from_url(redis_url) as client:
        assert [key for key in client.keys("*tenant*") if b":place:" not in key] == []


async def test_replicas_write_together(store: RedisStore, redis_url: str) -> None:
    other = RedisStore(connect(redis_url))
    puts = [
        each.put_many([Entry(f"s{number}", b"1"), Entry(f"m{number}", b"2", (f"s{number}",))])
        for number, each in enumerate([store, other] * 20)
    ]
    await asyncio.gather(*puts)
    assert await other.get_many([f"m{number}" for number in range(40)]) == [b"2"] * 40
    await other.close()


async def test_a_policy_that_evicts_is_a_concern(store: RedisStore, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            (concern,) = await store.concerns()
        finally:
            client.config_set("maxmemory-policy", "noeviction")
    assert "maxmemory-policy allkeys-lru" in concern


async def test_what_an_earlier_version_left_is_told(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.zadd("autocompressor:order", {"manifest:a": 1})
    store = await open_store(redis_url)
    (concern,) = await store.concerns()
    assert "summaries of an earlier version" in concern
    await store.close()


async def test_what_a_script_touches_is_in_one_slot(tmp_path: Path) -> None:
    """A server of a Redis Cluster refuses a script, and an MGET, over several slots."""
    arguments = ["--cluster-enabled", "yes", "--cluster-port", str(free_port())]
    with running_redis(tmp_path, arguments=arguments) as url:
        with redis.Redis.from_url(url) as client:
            client.execute_command("CLUSTER ADDSLOTSRANGE 0 16383")
            while client.cluster("info")["cluster_state"] != "ok":
                await asyncio.sleep(0.01)
        store = RedisStore(connect(url), Budget(max_bytes=10))
        spaces = [store.space(f"{number}") for number in range(20)]
        for each in spaces:
            await each.put_many([Entry("s", b"1"), Entry("t", b"1"), Entry("m", b"2", ("s", "t"))], ttl_seconds=60)
            assert await each.get_many(["s", "t", "m"]) == [b"1", b"1", b"2"]
            assert await each.exist(["s", "u"]) == [True, False]
            assert await each.touch(["m"], ttl_seconds=90) == [True]
            assert await each.list_referrers(limit=1) == ["m"]
            assert await each.find("s") is not None
            assert [keys async for keys in each.walk()] != []
            each.use(["m"])
        left = await store.stats()
        assert sum(each.size_bytes for each in left) == 9
        assert [await each.delete("m") for each in spaces].count(True) == 3
        assert (await store.sweep()).entries == 0
        await store.ping()
        await store.close()


async def test_an_error_repeats_no_password(tmp_path: Path) -> None:
    """A server that does not know AUTH answers with all that was sent."""
    with running_redis(tmp_path, arguments=["--rename-command", "AUTH", ""]) as url:
        store = await open_store(url.replace("redis://", "redis://someone:hidden-word@") + "?protocol=2")
        with pytest.raises(StoreUnavailable, match="AUTH") as caught:
            await store.ping()
        await store.close()
    assert "hidden-word" not in str(caught.value)
