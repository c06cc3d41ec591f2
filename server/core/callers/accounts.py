"""What one key has done, and whether it may do more now."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from server.core.callers.keyring import ApiKey
from server.core.callers.rates import Bucket
from server.core.tenant import Tenant
from server.errors import RateLimited

LEAST_WAIT_SECONDS = 1.0  # for a request of the caller's own to end


@dataclass
class Usage:
    """Since the server was started: requests let in, tokens that the engine read or wrote, requests refused."""

    requests: int = 0
    tokens: int = 0
    refused: int = 0


@dataclass(eq=False)
class Account:
    """A key while the server runs. Its rates are this process' own: replicas do not count together.

    Attributes:
        running: requests that are being answered, open WebSockets among them.
    """

    key: ApiKey
    tenant: Tenant
    clock: Callable[[], float] = time.monotonic
    usage: Usage = field(default_factory=Usage, init=False)
    running: int = field(default=0, init=False)
    requests: Bucket | None = field(init=False)
    tokens: Bucket | None = field(init=False)

    def __post_init__(self) -> None:
        self.limit(self.key, self.tenant)

    def limit(self, key: ApiKey, tenant: Tenant) -> None:
        """Go on under an entry that may have changed; where a limit did, its minute begins anew."""
        before, self.key, self.tenant = self.key, key, tenant
        is_new = not hasattr(self, "requests")
        if is_new or key.requests_per_minute != before.requests_per_minute:
            self.requests = _bucket(key.requests_per_minute, self.clock)
        if is_new or key.tokens_per_minute != before.tokens_per_minute:
            self.tokens = _bucket(key.tokens_per_minute, self.clock)

    def admit(self) -> None:
        """Count a request in.

        Raises:
            RateLimited: it is one too many, and is counted as refused.
        """
        try:
            self._require_room()
        except RateLimited:
            self.usage.refused += 1
            raise
        self.usage.requests += 1
        if self.requests is not None:
            self.requests.take(1)

    def require_place(self) -> None:
        """Refuse another request beside those that run."""
        most = self.key.concurrent_requests
        if most is not None and self.running >= most:
            self.usage.refused += 1
            raise RateLimited(
                f"{self.running} requests of the key {self.key.name!r} are being answered, and its limit is {most}",
                seconds=LEAST_WAIT_SECONDS,
            )

    def charge(self, num_tokens: int) -> None:
        """Count tokens; they are never refused here, and more than there is room for is made up for by waiting."""
        self.usage.tokens += num_tokens
        if self.tokens is not None:
            self.tokens.take(num_tokens)

    def _require_room(self) -> None:
        name = self.key.name
        if self.requests is not None and (seconds := self.requests.seconds_until(1)) > 0:
            raise RateLimited(
                f"the key {name!r} may send {self.requests.limit} requests a minute; another in {seconds:.1f} s",
                seconds=seconds,
            )
        if self.tokens is not None and self.tokens.level <= 0:
            seconds = self.tokens.seconds_until(1)
            raise RateLimited(
                f"the key {name!r} may have {self.tokens.limit} tokens a minute, which are used up; another request in "
                f"{seconds:.1f} s",
                seconds=seconds,
            )


def _bucket(limit: int | None, clock: Callable[[], float]) -> Bucket | None:
    return None if limit is None else Bucket(limit, clock=clock)
