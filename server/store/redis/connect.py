"""A client of the Redis that a URL names: one server, the primary that Sentinels know, or a cluster."""

import asyncio
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import AbstractConnection, SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import EqualJitterBackoff

from server.store.redis.address import WAIT_SECONDS, Acknowledgement, Address, read_address

RETRIES = 2  # of each call: a connection that was dropped while idle fails at its next command
SECONDS = 2.0  # to connect, and to answer
CLOSE_SECONDS = 5.0  # for connections to be let go of
SENTINEL_SECONDS = 0.5  # one Sentinel is asked after another
FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
SECRET_OPTIONS = ("password", "username", "ssl_password")


@dataclass(frozen=True)
class Connected:
    """A client, whom to ask for its server, when a write counts, and what no log or error may say."""

    client: Redis | RedisCluster
    acknowledgement: Acknowledgement | None = None
    sentinels: tuple[Redis, ...] = ()
    secrets: tuple[str, ...] = ()

    async def close(self) -> None:
        """Let go of all connections."""
        for client in (self.client, *self.sentinels):
            # a client of a cluster was seen to wait for ever here, after commands that were cancelled on their way
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await client.aclose()


def connect(url: str) -> Connected:
    """Make a client of a URL whose query may set options of redis-py; nothing is sent yet.

    A server that refuses connections is told in a fraction of a second, a silent one in 6 seconds. Calls are sent up to
    three times, after pauses with jitter.

    Args:
        url: as `server.store.open_store` takes it.

    Raises:
        ValueError: redis-py does not take the URL or an option of its query, or a certificate cannot be read.
    """
    address = read_address(url)
    options: dict[str, Any] = {
        "socket_connect_timeout": SECONDS,
        "socket_timeout": SECONDS,
        **parse_url(address.plain),
        "retry": Retry(EqualJitterBackoff(cap=0.5, base=0.05), retries=RETRIES),
    }
    _require_time(address.acknowledgement, options["socket_timeout"])
    try:
        for name in FILES:
            if name in options:
                Path(options[name]).open("rb").close()  # ssl's error would not name it
        client, sentinels = _clients(address, options)
        # redis-py meets an unknown option, or a missing certificate, when it first connects
        connection = _connection(client)
        if isinstance(connection, SSLConnection):
            connection.ssl_context.get()
    except TypeError as error:
        raise ValueError(f"an option of the Redis URL is unknown: {error}") from error
    except (OSError, ssl.SSLError) as error:
        raise ValueError(f"a certificate or key of the Redis URL cannot be read: {error}") from error
    return Connected(client, address.acknowledgement, sentinels, _secrets(options, address.sentinel_login))


def _clients(address: Address, options: dict[str, Any]) -> tuple[Redis | RedisCluster, tuple[Redis, ...]]:
    if not address.is_cluster and address.service is None:
        return Redis.from_url(address.plain, **options), ()
    # of the first host alone
    is_tls = issubclass(options.pop("connection_class", AbstractConnection), SSLConnection)
    rest = {name: value for name, value in options.items() if name not in ("host", "port")}
    if is_tls:
        rest["ssl"] = True
    if address.service is None:
        nodes = [ClusterNode(host, port) for host, port in address.hosts]
        return RedisCluster(startup_nodes=nodes, **rest), ()
    asking: dict[str, Any] = {name: value for name, value in rest.items() if name.startswith("ssl")}
    asking |= {"socket_connect_timeout": SENTINEL_SECONDS, "socket_timeout": SENTINEL_SECONDS}
    asking |= {"retry": Retry(EqualJitterBackoff(cap=0.1, base=0.05), retries=1), **address.sentinel_login}
    sentinel = Sentinel(address.hosts, sentinel_kwargs=asking)  # type: ignore[no-untyped-call]
    return sentinel.master_for(address.service, **rest), tuple(sentinel.sentinels)


def _connection(client: Redis | RedisCluster) -> AbstractConnection:
    """One that is not opened."""
    if isinstance(client, RedisCluster):
        node = next(iter(client.nodes_manager.startup_nodes.values()))
        return node.connection_class(**node.connection_kwargs)
    pool = client.connection_pool
    return pool.connection_class(**pool.connection_kwargs)


def _require_time(acknowledgement: Acknowledgement | None, timeout: float) -> None:
    if acknowledgement is not None and acknowledgement.seconds >= timeout:
        raise ValueError(
            f"{WAIT_SECONDS} of the Redis URL must be less than its socket_timeout, after which a call is given up: "
            f"{acknowledgement.seconds:g} and {timeout:g}"
        )


def _secrets(*options: Mapping[str, Any]) -> tuple[str, ...]:
    """The longest first. An error of Redis can repeat a command, AUTH among them."""
    given = [each.get(name) for each in options for name in SECRET_OPTIONS]
    return tuple(sorted({str(secret) for secret in given if secret}, key=len, reverse=True))
