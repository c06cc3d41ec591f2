"""The rows, by the names that `make chaos ONLY=…` takes."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos.house import House
from tests.chaos.outcome import Outcome
from tests.chaos.rows import crowds, engines, hours, imports, kills, records, redis_faults


@dataclass(frozen=True)
class Row:
    """What is done, in a few words; `rounds` and `seconds` that a full run has, 0 where a row has none."""

    run: Callable[[House, Outcome], None]
    did: str
    rounds: int = 0
    seconds: float = 0.0


ROWS: dict[str, Row] = {
    "kill-9-file": Row(kills.kill_9_file, "the server is killed at random moments, on a file", rounds=200),
    "kill-9-redis": Row(kills.kill_9_redis, "the server is killed at random moments, on Redis", rounds=200),
    "redis-kill": Row(redis_faults.redis_kill, "Redis is killed, and started 0 to 2 s later", rounds=20),
    "redis-pause": Row(redis_faults.redis_pause, "Redis is stopped (SIGSTOP) for 0.5 to 6 s", rounds=10),
    "redis-restart": Row(redis_faults.redis_restart, "Redis is shut down, and started 0 to 2 s later", rounds=10),
    "redis-full": Row(redis_faults.redis_full, "Redis is at its `maxmemory`, `noeviction`", rounds=10),
    "redis-evicts": Row(redis_faults.redis_evicts, "Redis evicts half of all keys, at random", seconds=60),
    "redis-read-only": Row(redis_faults.redis_read_only, "Redis is a read-only replica, then promoted", seconds=20),
    "redis-failover": Row(redis_faults.redis_failover, "Sentinel promotes the replica of a killed primary", rounds=5),
    "disk-full": Row(records.disk_full, "the disk of the file is full, and has room again", rounds=10),
    "bit-flips-file": Row(records.bit_flips_file, "one bit of a record is flipped, on a file", rounds=1000),
    "bit-flips-redis": Row(records.bit_flips_redis, "one bit of a record is flipped, on Redis", rounds=1000),
    "overload": Row(crowds.overload, "10 times the questions that it can answer, beside 16 bulk clients", seconds=120),
    "leaving": Row(crowds.leaving, "clients leave in the middle of a stream", rounds=1000),
    "bodies": Row(crowds.bodies, "slow, stalled, endless, encoded and damaged requests", rounds=3),
    "engine-fails": Row(engines.engine_fails, "one forward pass in 20 fails, out of memory included", seconds=60),
    "engine-ends": Row(engines.engine_ends, "the device is lost for good, and the server restarted", rounds=3),
    "imports": Row(imports.imports, "files to import that Hypothesis draws", rounds=3000),
    "sigterm": Row(kills.sigterm, "SIGTERM under load of 8 clients", rounds=20),
    "hour": Row(hours.hour, "everything that clients do, beside bad calls and clients that leave", seconds=3600),
}
