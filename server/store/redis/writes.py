"""Scripts whose writes count once replicas or the disk have them: `WAIT` and `WAITAOF`.

Redis acknowledges a write before its replicas have it, so one that it acknowledged is lost when it fails over. Both
commands wait for the last write of their own connection, and so for all that any connection wrote before it
(https://redis.io/docs/latest/commands/wait/): script, mark and wait are sent as one pipeline, which is sent again as a
whole. The mark is there because a script that found nothing to change writes nothing, and what it found may be on its
way to the replicas.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import PipelineCommand
from redis.backoff import EqualJitterBackoff
from redis.exceptions import (
    AskError,
    ConnectionError,  # noqa: A004
    MovedError,
    RedisError,
    TimeoutError,  # noqa: A004
    TryAgainError,
)

from server.store.protocol import StoreUnavailable
from server.store.redis.address import Acknowledgement
from server.store.redis.connect import RETRIES, Connected

Script = Callable[..., Awaitable[Any]]
MARK = "#!lua flags=allow-oom\nreturn redis.call('SET', KEYS[1], '1')"
MARK_KEY = "autocompressor:acknowledged"
ELSEWHERE = (MovedError, AskError, TryAgainError, ConnectionError, TimeoutError)


def script(connected: Connected, text: str) -> Script:
    """A script to call with `keys` and `args`, as redis-py's; where the URL asks so, it waits for acknowledgement."""
    if connected.acknowledgement is None:
        return connected.client.register_script(text)
    return AcknowledgedScript(connected.client, text, connected.acknowledgement)


class AcknowledgedScript:
    """A script that returns when all that it read and wrote is as safe as was asked."""

    def __init__(self, client: Redis | RedisCluster, text: str, acknowledgement: Acknowledgement) -> None:
        self._client = client
        self._text = text
        self._wanted = acknowledgement

    async def __call__(self, keys: Sequence[str] = (), args: Sequence[Any] = ()) -> Any:
        """What the script returns.

        Args:
            keys: of one slot; the first names the node of a cluster.

        Raises:
            StoreUnavailable: what was written is written, but was not acknowledged in time.
            RedisError: of the script, or of what waits.
        """
        # in the slot of the first key, which has a hash tag where there are slots
        mark = f"{keys[0]}:acknowledged" if keys else MARK_KEY
        commands = [
            ("EVAL", self._text, len(keys), *keys, *args),
            ("EVAL", MARK, 1, mark),
            self._wait(),
        ]
        if isinstance(self._client, RedisCluster):
            results = await _at_one_node(self._client, mark, commands)
        else:
            async with self._client.pipeline(transaction=False) as pipeline:
                for command in commands:
                    pipeline.execute_command(*command)
                results = await pipeline.execute(raise_on_error=False)
        for result in results:
            if isinstance(result, Exception):
                raise result
        self._require(results[-1])
        return results[0]

    def _wait(self) -> tuple[str | int, ...]:
        milliseconds = round(self._wanted.seconds * 1000)
        if self._wanted.is_synced:
            return ("WAITAOF", 1, self._wanted.replicas, milliseconds)
        return ("WAIT", self._wanted.replicas, milliseconds)

    def _require(self, reached: Any) -> None:
        synced, replicas = reached if self._wanted.is_synced else (None, reached)
        if replicas < self._wanted.replicas:
            what = f"{replicas} of {self._wanted.replicas} replicas acknowledged it"
        elif synced == 0:
            what = "it was not on the server's disk"
        else:
            return
        raise StoreUnavailable(f"Redis did the write, but within {self._wanted.seconds:g} seconds {what}")


async def _at_one_node(client: RedisCluster, key: str, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
    """What the node that has a key says to each of these, sent in one go.

    Not by redis-py's pipeline, which sends a command that was redirected again by itself: the wait would stay behind.
    """
    backoff = EqualJitterBackoff(cap=0.5, base=0.05)
    failure: RedisError = ConnectionError("no node has the slot")
    for attempt in range(1 + RETRIES):
        if attempt:
            await asyncio.sleep(backoff.compute(attempt))
            await client.nodes_manager.initialize()
        await client.initialize()
        queued = [PipelineCommand(place, *command) for place, command in enumerate(commands)]
        try:
            node = client.get_node_from_key(key)
            assert node is not None  # it is one of primaries, else an error
            await node.execute_pipeline(queued)
        except ELSEWHERE as error:
            failure = error
            continue
        results = [command.result for command in queued]
        failures = [result for result in results if isinstance(result, ELSEWHERE)]
        if not failures:
            return results
        failure = failures[0]
    raise failure
