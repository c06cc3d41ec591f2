"""A client of the Redis that a URL names."""

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff


def connect(url: str) -> Redis:
    """Make a client of a redis://, rediss:// or unix:// URL; its query may set options of redis-py.

    A server that refuses connections is told in a fraction of a second, a silent one in 6 seconds.

    Raises:
        ValueError: redis-py does not take the URL or an option of its query.
    """
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
