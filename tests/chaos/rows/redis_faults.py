"""Redis killed, paused, restarted, full, evicting, read-only, failed over."""

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress

import redis

from tests.chaos.house import (
    House,
    Load,
    Served,
    fill,
    judge_kept,
    judge_load,
    judge_log,
    seconds_until_good,
    seconds_until_written,
    tell_seconds,
)
from tests.chaos.outcome import Outcome
from tests.redis_server import free_port, running_redis
from tests.redis_topologies import SERVICE, ask, is_primary, port_of, running_replica, running_sentinel, until

# connecting and answering have two seconds each, a call is sent three times, and the circuit is open for two more
MOST_RECOVERY_SECONDS = 10.0
MOST_FAILOVER_SECONDS = 20.0
MOST_GONE_SECONDS = 2.0
KINDS = {"compress": 6, "again": 2, "generate": 4, "stream": 1, "export": 2, "delete": 3}


def process_of(url: str) -> int:
    with redis.Redis.from_url(url) as client:
        return int(client.info("server")["process_id"])


def redis_kill(house: House, outcome: Outcome) -> None:
    """It syncs every write, so what was acknowledged is on its disk."""
    _gone(house, outcome, lambda url: os.kill(process_of(url), signal.SIGKILL))


def redis_restart(house: House, outcome: Outcome) -> None:
    _gone(house, outcome, _shut_down)


def _shut_down(url: str) -> None:
    with redis.Redis.from_url(url) as client, suppress(redis.ConnectionError):
        client.shutdown()


def _gone(house: House, outcome: Outcome, end: Callable[[str], None]) -> None:
    """End it again and again, and start it on what it wrote."""
    draw, port, seconds = random.Random(house.seed), free_port(), []
    with ExitStack() as opened:
        opened.enter_context(running_redis(house.folder, port=port))
        url = f"redis://127.0.0.1:{port}/0"
        served = opened.enter_context(house.served(url))
        fill(house, served, 1)
        with Load(house.plan(served.url, kinds=KINDS, refusals=(503,))) as clients:
            for number in range(house.rounds):
                clients.wait_for(20)
                end(url)
                time.sleep(draw.uniform(0, MOST_GONE_SECONDS))
                opened.enter_context(running_redis(house.folder, port=port))
                seconds.append(_seconds_to_recover(house, served))
                house.say(f"{number + 1} of {house.rounds}, back after {seconds[-1]:.1f} s")
        outcome.counts["times"] = house.rounds
        _judge(house, served, clients, outcome)
    tell_seconds(outcome, "Redis back to first good answer and write", seconds, most=MOST_RECOVERY_SECONDS)


def _seconds_to_recover(house: House, served: Served) -> float:
    started = time.monotonic()
    seconds_until_good(served, house.expected[0])
    seconds_until_written(served, 0)
    return time.monotonic() - started


def _judge(house: House, served: Served, clients: Load, outcome: Outcome, *, can_lose: bool = False) -> None:
    judge_load(clients.record, outcome)
    outcome.counts["refused, 503 or 507"] = clients.record.refused(503, 507)
    slowest = max(clients.record.all_seconds, default=0.0)
    outcome.counts["slowest good answer, s"] = slowest
    judge_kept(house, served, clients.record, outcome, can_lose=can_lose)
    judge_log(served, outcome)


def redis_pause(house: House, outcome: Outcome) -> None:
    """SIGSTOP, for half a second to six: shorter and longer than the server waits."""
    draw, seconds = random.Random(house.seed), []
    with running_redis(house.folder) as url, house.served(url) as served:
        fill(house, served, 1)
        process = process_of(url)
        with Load(house.plan(served.url, kinds=KINDS, refusals=(503,))) as clients:
            for number in range(house.rounds):
                clients.wait_for(20)
                os.kill(process, signal.SIGSTOP)
                try:
                    time.sleep(draw.uniform(0.5, 6))
                finally:
                    os.kill(process, signal.SIGCONT)
                seconds.append(_seconds_to_recover(house, served))
                house.say(f"{number + 1} of {house.rounds}, back after {seconds[-1]:.1f} s")
        outcome.counts["pauses"] = house.rounds
        _judge(house, served, clients, outcome)
    tell_seconds(outcome, "Redis back to first good answer and write", seconds, most=MOST_RECOVERY_SECONDS)


def redis_full(house: House, outcome: Outcome) -> None:
    """`maxmemory` with `noeviction`, just above what it has: writes are refused, reads are not."""
    seconds, refused = [], 0
    arguments = ["--maxmemory-policy", "noeviction"]
    with running_redis(house.folder, arguments=arguments) as url, house.served(url) as served:
        fill(house, served, 1)
        with Load(house.plan(served.url, kinds=KINDS, refusals=(507,))) as clients, redis.Redis.from_url(url) as store:
            for number in range(house.rounds):
                clients.wait_for(50)
                store.config_set("maxmemory", int(store.info("memory")["used_memory"]) + 2**14)
                until(lambda: _is_refused(served, "fuller"), seconds=30, what="it is full")
                refused += served.client.get("/readyz").json()["checks"]["store"] == "full"
                seconds_until_good(served, house.expected[0], most=2)
                clients.wait_for(50)
                store.config_set("maxmemory", 0)
                seconds.append(_seconds_to_recover(house, served))
                house.say(f"{number + 1} of {house.rounds} times full, back after {seconds[-1]:.2f} s")
        outcome.counts["times full"] = house.rounds
        outcome.counts["/readyz said so"] = refused
        outcome.require(refused > 0, "/readyz never said that the store is full")  # clients who delete make room
        _judge(house, served, clients, outcome)
    outcome.require(clients.record.refused(507) > 0, "no client was refused")
    tell_seconds(outcome, "room again to first good answer and write", seconds, most=MOST_RECOVERY_SECONDS)


def _is_refused(served: Served, word: str) -> bool:
    """Whether one more document finds no room."""
    return served.client.post("/compress", json={"text": f"{word} {time.monotonic()} " * 8}).status_code == 507


def redis_evicts(house: House, outcome: Outcome) -> None:
    """`allkeys-random` with room for half of the documents: some are gone, none is wrong."""
    arguments = ["--maxmemory-policy", "allkeys-random"]
    with running_redis(house.folder, arguments=arguments) as url, house.served(url) as served:
        with redis.Redis.from_url(url) as store:
            empty = int(store.info("memory")["used_memory"])
            fill(house, served)
            most = empty + (int(store.info("memory")["used_memory"]) - empty) // 2
            store.config_set("maxmemory", most)
            kinds = KINDS | {"delete": 1, "segments": 2}
            plan = house.plan(served.url, kinds=kinds, can_lose=True, is_stored=True, refusals=(503, 507))
            with Load(plan) as clients:
                time.sleep(house.seconds)
            outcome.counts["keys that Redis evicted"] = int(store.info("stats")["evicted_keys"])
        outcome.counts["answers that said so, 404 or computed again"] = clients.record.counts.get("gone", 0)
        outcome.require(bool(clients.record.counts.get("gone")), "nothing was evicted")
        _judge(house, served, clients, outcome, can_lose=True)


def redis_read_only(house: House, outcome: Outcome) -> None:
    """A server whose Redis is a replica, until that is promoted: reads are answered, writes refused."""
    with ExitStack() as opened:
        (house.folder / "first").mkdir()
        first = opened.enter_context(running_redis(house.folder / "first"))
        with house.served(f"{first}?wait_replicas=0") as served:
            fill(house, served)
            # the secret that signs exports is made for the first of them, which a replica cannot store
            path, params = f"/summaries/{house.expected[0].id}", {"format": "safetensors"}
            served.client.get(path, params=params).raise_for_status()
        second = opened.enter_context(running_replica(house.folder / "second", first))
        served = opened.enter_context(house.served(second))
        kinds = {"generate": 4, "export": 2, "segments": 1, "delete": 1}
        plan = house.plan(served.url, kinds={"generate": 4, "export": 2, "segments": 1, "list": 1}, is_stored=True)
        with Load(plan) as readers:
            deadline, refused, taken = time.monotonic() + house.seconds, 0, 0
            while time.monotonic() < deadline:
                status = served.client.post("/compress", json={"text": f"new {refused}"}).status_code
                refused, taken = refused + (status == 503), taken + (status != 503)
                time.sleep(0.05)
            outcome.counts["writes refused, 503"] = refused
            outcome.require(not taken, f"{taken} writes to a read-only Redis were not answered 503")
            ask(second, "REPLICAOF", "NO", "ONE")
            seconds = _seconds_to_recover(house, served)
        judge_load(readers.record, outcome)
        with Load(house.plan(served.url, kinds=kinds | {"compress": 4}, is_stored=True)) as clients:
            clients.wait_for(200)
        outcome.counts["answers before it was promoted"] = outcome.counts.pop("answers")
        _judge(house, served, clients, outcome)
    tell_seconds(outcome, "promoted to first good write", [seconds], most=MOST_RECOVERY_SECONDS)


def redis_failover(house: House, outcome: Outcome) -> None:
    """The primary is killed, Sentinel promotes its replica, and that gets another, again and again."""
    seconds = []
    with ExitStack() as opened:
        (house.folder / "0").mkdir()
        primary = opened.enter_context(running_redis(house.folder / "0"))
        replica = opened.enter_context(running_replica(house.folder / "1", primary))
        sentinel = opened.enter_context(running_sentinel(house.folder / "sentinel", primary))
        store = f"redis+sentinel://127.0.0.1:{sentinel}/{SERVICE}/0?wait_replicas=1&wait_seconds=0.5"
        served = opened.enter_context(house.served(store))
        fill(house, served, 1)
        with Load(house.plan(served.url, kinds=KINDS, refusals=(503,))) as clients:
            for number in range(house.rounds):
                clients.wait_for(20)
                killed = time.monotonic()
                os.kill(process_of(primary), signal.SIGKILL)
                until(lambda now=replica: is_primary(now), seconds=30, what="promoted")
                primary = replica
                replica = opened.enter_context(running_replica(house.folder / str(number + 2), primary))
                _seconds_to_recover(house, served)
                seconds.append(time.monotonic() - killed)
                _wait_until_watched(sentinel, port_of(replica))
                house.say(f"{number + 1} of {house.rounds} failovers, the last in {seconds[-1]:.1f} s")
        outcome.counts["failovers"] = house.rounds
        _judge(house, served, clients, outcome)
    tell_seconds(outcome, "kill to first good answer and write", seconds, most=MOST_FAILOVER_SECONDS)


def _wait_until_watched(sentinel: int, port: int) -> None:
    """Until Sentinel knows a replica as one that it may promote."""

    def is_watched() -> bool:
        with redis.Redis(port=sentinel) as client:
            replicas = client.sentinel_slaves(SERVICE)
        mine = [one for one in replicas if one["port"] == port]
        return bool(mine) and not mine[0]["is_disconnected"] and mine[0]["master-link-status"] == "ok"

    until(is_watched, seconds=30, what="Sentinel knows the new replica")
