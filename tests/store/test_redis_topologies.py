"""The stores that a Redis URL can name, on real servers: Sentinel, a cluster, TLS, users, and acknowledged writes."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import pytest
import redis

from server.store import Entry, StoreUnavailable, open_store
from server.store.protocol import OWN_SPACE
from server.store.redis.connect import connect
from server.store.redis.keys import prefix_of
from server.store.redis.writes import script
from tests.redis_server import free_port, running_redis
from tests.redis_topologies import (
    SERVICE,
    ask,
    is_primary,
    make_certificates,
    port_of,
    running_cluster,
    running_replica,
    running_sentinel,
    until,
)

pytestmark = pytest.mark.redis

PREFIX = prefix_of(OWN_SPACE)


def process_of(url: str) -> int:
    with redis.Redis.from_url(url) as client:
        return int(client.info("server")["process_id"])


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A server and its replica."""
    directory = tmp_path_factory.mktemp("pair")
    (directory / "first").mkdir()
    with running_redis(directory / "first") as first, running_replica(directory / "second", first) as second:
        yield first, second


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    with running_cluster(tmp_path_factory.mktemp("cluster")) as urls:
        yield urls


async def test_nothing_acknowledged_is_lost_when_sentinel_fails_over(tmp_path: Path) -> None:
    """Four clients write while the primary is killed: all that was acknowledged is in the one that was promoted."""
    with ExitStack() as servers:
        (tmp_path / "first").mkdir()
        first = servers.enter_context(running_redis(tmp_path / "first"))
        second = servers.enter_context(running_replica(tmp_path / "second", first))
        sentinel = servers.enter_context(running_sentinel(tmp_path / "sentinel", first))
        # of the two Sentinels one is not there
        url = f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{sentinel}/{SERVICE}/2?wait_replicas=1&wait_seconds=0.5"
        store = await open_store(url)
        acknowledged: list[str] = []
        errors: list[BaseException] = []
        stop = asyncio.Event()

        async def write(client: int) -> None:
            number = 0
            while not stop.is_set():
                number += 1
                key = f"{client}-{number}"
                try:
                    await store.put_many([Entry(key, b"1"), Entry(f"m{key}", b"2", (key,))])
                    acknowledged.append(key)
                except StoreUnavailable as error:
                    errors.append(error)
                await asyncio.sleep(0.005)

        writers = [asyncio.create_task(write(client)) for client in range(4)]
        await asyncio.to_thread(until, lambda: len(acknowledged) > 20, what="they write")
        killed = time.monotonic()
        os.kill(process_of(first), signal.SIGKILL)
        await asyncio.to_thread(until, lambda: is_primary(second), what="promoted")
        third = await asyncio.to_thread(servers.enter_context, running_replica(tmp_path / "third", second))
        at_once = len(acknowledged)
        await asyncio.to_thread(until, lambda: len(acknowledged) > at_once + 20, what="writes go on")
        seconds = time.monotonic() - killed
        stop.set()
        await asyncio.gather(*writers)
        assert errors
        assert seconds < 12
        for here in (store, await open_store(third.replace("/0", "/2"))):
            assert None not in await here.get_many([f"m{key}" for key in acknowledged])
            await here.close()


async def test_a_write_that_no_replica_acknowledges_is_unavailable(pair: tuple[str, str]) -> None:
    """Nor is it told to be there until it is acknowledged; and then it is, though nothing is written any more."""
    first, second = pair
    store = await open_store(f"{first}?wait_replicas=1&wait_seconds=0.2")
    await store.put_many([Entry("a", b"1")])
    assert ask(second, "GET", f"{PREFIX}value:a") == b"1"
    replica = process_of(second)
    os.kill(replica, signal.SIGSTOP)
    try:
        with pytest.raises(StoreUnavailable, match=r"within 0.2 seconds 0 of 1 replicas acknowledged it"):
            await store.put_many([Entry("b", b"1")])
        assert await store.get_many(["b"]) == [b"1"]
        with pytest.raises(StoreUnavailable, match="0 of 1"):
            await store.exist(["b"])
        with pytest.raises(StoreUnavailable, match="0 of 1"):
            await store.touch(["b"], ttl_seconds=None)
        with pytest.raises(StoreUnavailable, match="0 of 1"):
            await store.delete("a")
    finally:
        os.kill(replica, signal.SIGCONT)
    assert await store.exist(["a", "b"]) == [False, True]
    assert ask(second, "GET", f"{PREFIX}value:b") == b"1"
    await store.close()


@pytest.mark.parametrize("program", ["redis-server", "valkey-server"])
async def test_a_write_that_is_acknowledged_is_on_the_disk(tmp_path: Path, program: str) -> None:
    """The server is killed at once; with `everysec` alone it would lose up to a second."""
    with running_redis(tmp_path, arguments=["--appendfsync", "everysec"], program=program) as url:
        store = await open_store(f"{url}?wait_fsync=yes&wait_seconds=1.9")
        with redis.Redis.from_url(url) as client:
            major, minor, *_ = client.info("server")["redis_version"].split(".")
            if (int(major), int(minor)) < (7, 2):
                with pytest.raises(StoreUnavailable, match="WAITAOF"):
                    await store.put_many([Entry("a", b"1")])
                await store.close()
                pytest.skip(f"this {program} is older than WAITAOF, and says so")
        await store.put_many([Entry("a", b"1")])
        await store.delete("a")
        await store.put_many([Entry("b", b"1")])
        os.kill(process_of(url), signal.SIGKILL)
        await store.close()
    with running_redis(tmp_path, port=free_port(), program=program) as url:
        store = await open_store(url)
        assert await store.get_many(["a", "b"]) == [None, b"1"]
        await store.close()


async def test_a_read_only_replica_is_unavailable_for_writes_and_read_from(pair: tuple[str, str]) -> None:
    first, second = pair
    primary, store = await open_store(f"{first}?wait_replicas=1"), await open_store(second)
    await primary.put_many([Entry("r", b"1")])
    for _ in range(10):
        with pytest.raises(StoreUnavailable, match="read only"):
            await store.put_many([Entry("s", b"1")])
    assert await store.get_many(["r", "s"]) == [b"1", None]
    await primary.close()
    await store.close()


def tagged(name: str) -> str:
    return f"autocompressor:{{0}}:{name}"


async def test_scripts_and_pipelines_of_one_slot_work_in_a_cluster(cluster: list[str]) -> None:
    hosts = ",".join(f"127.0.0.1:{port_of(url)}" for url in cluster[1:3])
    connected = connect(f"redis+cluster://127.0.0.1:{free_port()},{hosts}?wait_replicas=0")
    client = connected.client
    for number in range(4):  # of all nodes
        put = script(connected, "return redis.call('SET', KEYS[1], ARGV[1])")
        assert await put(keys=[f"{{{number}}}a"], args=[b"1"]) == b"OK"
        async with client.pipeline(transaction=True) as pipeline:
            pipeline.execute_command("GET", f"{{{number}}}a")
            pipeline.pttl(f"{{{number}}}a")
            assert await pipeline.execute() == [b"1", -1]
        assert await client.mget([f"{{{number}}}a", f"{{{number}}}b"]) == [b"1", None]
    await connected.close()


async def test_a_cluster_acknowledges_and_fails_over(cluster: list[str]) -> None:
    """The slot has a replica, which takes over in the middle of the writes."""
    with redis.Redis.from_url(cluster[0]) as first:
        name = next(f"{{{n}}}count" for n in range(100) if first.cluster("KEYSLOT", f"{{{n}}}count") < 16384 // 3)
    connected = connect(f"redis+cluster://127.0.0.1:{port_of(cluster[1])}?wait_replicas=1&wait_seconds=0.5")
    put = script(connected, "return redis.call('INCR', KEYS[1])")
    assert await put(keys=[name]) == 1
    ask(cluster[3], "READONLY")
    until(lambda: b"slave" in ask(cluster[3], "ROLE"), what="a replica")  # type: ignore[operator]
    ask(cluster[3], "CLUSTER", "FAILOVER")
    counts = []
    deadline = time.monotonic() + 10
    while len(counts) < 5 and time.monotonic() < deadline:
        try:
            counts.append(await put(keys=[name]))
        except (StoreUnavailable, redis.RedisError):
            await asyncio.sleep(0.1)
    assert len(counts) == 5
    until(lambda: is_primary(cluster[3]), what="taken over")
    last = await put(keys=[name])
    assert last > counts[-1]
    assert ask(cluster[3], "GET", name) == str(last).encode()
    await connected.close()


async def test_tls_with_certificates_of_both_sides(tmp_path: Path) -> None:
    made = make_certificates(tmp_path)
    port = free_port()
    arguments = ["--tls-port", str(port), "--tls-ca-cert-file", str(made.authority), "--tls-auth-clients", "yes"]
    arguments += ["--tls-cert-file", str(made.server[0]), "--tls-key-file", str(made.server[1])]
    with running_redis(tmp_path, arguments=arguments):
        known = f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={quote(str(made.authority))}"
        own = f"&ssl_certfile={quote(str(made.client[0]))}&ssl_keyfile={quote(str(made.client[1]))}"
        store = await open_store(known + own)
        await store.put_many([Entry("a", b"1")])
        assert await store.get_many(["a"]) == [b"1"]
        await store.close()
        for url in (known, f"rediss://127.0.0.1:{port}/0?{own[1:]}", f"redis://127.0.0.1:{port}/0"):
            store = await open_store(url)
            with pytest.raises(StoreUnavailable):
                await store.get_many(["a"])
            await store.close()


@pytest.mark.parametrize("option", ["ssl_ca_certs", "ssl_certfile", "ssl_keyfile"])
async def test_a_certificate_that_is_not_there_is_named_at_the_start(tmp_path: Path, option: str) -> None:
    with pytest.raises(ValueError, match=r"nowhere\.pem"):
        await open_store(f"rediss://127.0.0.1:1/0?{option}={tmp_path}/nowhere.pem")


async def test_a_user_who_may_do_no_more_than_it_takes(tmp_path: Path) -> None:
    """What docs/reliability.md tells to let it; another user's password is refused, and repeated nowhere."""
    with running_redis(tmp_path) as url:
        rules = "on >right-word resetkeys ~autocompressor:* -@all +@read +@write +@scripting +@transaction +@connection"
        ask(url, "ACL", "SETUSER", "summaries", *rules.split(), "+info", "+time", "+wait", "-@dangerous", "+info")
        ask(url, "ACL", "SETUSER", "default", "off")
        address = url.removeprefix("redis://")
        store = await open_store(f"redis://summaries:right-word@{address}?wait_replicas=0")
        await store.put_many([Entry("s", b"1"), Entry("m", b"2", ("s",))], ttl_seconds=60)
        assert await store.exist(["m"]) == [True]
        assert await store.list_referrers(limit=5) == ["m"]
        assert await store.touch(["m"], ttl_seconds=None) == [True]
        assert await store.find("m") == (b"2", None)
        assert await store.concerns() == []
        await store.ping()
        assert await store.delete("m")
        await store.close()
        store = await open_store(f"redis://summaries:wrong-word@{address}")
        with pytest.raises(StoreUnavailable, match=r"[Ii]nvalid") as caught:
            await store.ping()
        assert "wrong-word" not in str(caught.value)
        await store.close()


async def test_a_server_that_is_gone_is_not_asked_by_every_call(tmp_path: Path) -> None:
    """After five failures calls fail at once; within seconds after it is back they are answered."""
    port = free_port()
    (tmp_path / "data").mkdir()
    with running_redis(tmp_path / "data", port=port) as url:
        store = await open_store(url)
        await store.put_many([Entry("a", b"1")])
    for _ in range(5):
        with pytest.raises(StoreUnavailable, match="Redis failed"):
            await store.get_many(["a"])
    started = time.monotonic()
    for _ in range(1000):
        with pytest.raises(
            StoreUnavailable, match=r"did not answer 5 calls in a row, and is tried again in \d\.\d sec"
        ):
            await store.get_many(["a"])
    assert time.monotonic() - started < 1
    with running_redis(tmp_path / "data", port=port):
        back = time.monotonic()
        while True:
            try:
                assert await store.get_many(["a"]) == [b"1"]
                break
            except StoreUnavailable:
                assert time.monotonic() - back < 4
                await asyncio.sleep(0.02)
        await store.close()
