"""A client of the Redis that a URL names."""

import re
from urllib.parse import urlsplit

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

from server.store.urls import shown_url


def connect(url: str) -> Redis:
    """Make a client of a redis://, rediss:// or unix:// URL; its query may set options of redis-py.

    A server that refuses connections is told in a fraction of a second, a silent one in 6 seconds.

    Raises:
        ValueError: redis-py does not take the URL or an option of its query.
    """
    _require_host(url)
    client = Redis.from_url(
        url,
        socket_connect_timeout=2.0,
        socket_timeout=2.0,
        # a connection that was dropped while idle fails at its next command; each of ours may be sent twice
        retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), retries=2),
    )
    pool = client.connection_pool
    try:
        # otherwise redis-py meets an unknown option when it first connects
        pool.connection_class(**pool.connection_kwargs)
    except TypeError as error:
        raise ValueError(f"an option of the Redis URL is unknown: {error}") from error
    return client


def _require_host(url: str) -> None:
    """Refuse what redis-py would take for a host or a port and repeat in its errors, though a password is in it."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError(f"the port of the Redis URL {shown_url(url)} is no number up to 65535") from None
    if re.search("%40|%3a", parts.netloc.rpartition("@")[2].lower()):
        raise ValueError(f"the Redis URL {shown_url(url)} has an encoded '@' or ':' where its host stands")


def secrets_of(client: Redis) -> tuple[str, ...]:
    """What no log or error may say of a client: an error of Redis can repeat a command, AUTH among them."""
    options = client.connection_pool.connection_kwargs
    given = [options.get(name) for name in ("password", "username", "ssl_password")]
    return tuple(sorted({str(secret) for secret in given if secret}, key=len, reverse=True))
