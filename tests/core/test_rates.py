"""What a key may do in a minute, by a clock that the test turns."""

from contextlib import suppress

import pytest

from server.core.callers.accounts import Account
from server.core.callers.keyring import ApiKey
from server.core.callers.rates import Bucket
from server.core.tenant import Tenant
from server.errors import RateLimited


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def key(**limits: int) -> ApiKey:
    return ApiKey(name="reader", sha256="0" * 64, **limits)


def test_a_bucket_has_a_minute_s_worth_and_fills_evenly() -> None:
    clock = Clock()
    bucket = Bucket(60, clock=clock)
    for _ in range(60):
        assert bucket.seconds_until(1) == 0
        bucket.take(1)
    assert (bucket.remaining, bucket.seconds_until(1), bucket.seconds_until_full) == (0, 1.0, 60.0)
    clock.now += 0.5
    assert (bucket.remaining, bucket.seconds_until(1)) == (0, 0.5)
    clock.now += 10
    assert bucket.remaining == 10
    clock.now += 1e6
    assert (bucket.remaining, bucket.seconds_until_full) == (60, 0)


def test_what_was_taken_too_much_is_made_up_for() -> None:
    clock = Clock()
    bucket = Bucket(600, clock=clock)
    bucket.take(1800)
    assert (bucket.remaining, bucket.seconds_until(1)) == (0, pytest.approx(120.1))
    clock.now += 120
    assert (bucket.level, bucket.remaining) == (0, 0)


def test_over_any_hour_no_more_comes_in_than_the_limit_and_a_minute_s_worth() -> None:
    clock = Clock()
    account = Account(key(requests_per_minute=30), Tenant(), clock)
    for _ in range(36_000):
        clock.now += 0.1
        with suppress(RateLimited):
            account.admit()
    assert 60 * 30 <= account.usage.requests <= 61 * 30
    assert account.usage.requests + account.usage.refused == 36_000


def test_a_request_is_let_in_while_tokens_are_left_and_then_waits_for_all_that_it_took() -> None:
    clock = Clock()
    account = Account(key(tokens_per_minute=100), Tenant(), clock)
    account.admit()
    account.charge(99)
    account.admit()
    account.charge(101)
    with pytest.raises(RateLimited, match="100 tokens a minute") as refused:
        account.admit()
    assert refused.value.seconds == pytest.approx(60.6)
    clock.now += refused.value.seconds
    account.admit()
    assert (account.usage.requests, account.usage.refused, account.usage.tokens) == (3, 1, 200)


def test_a_limit_that_stays_goes_on_when_keys_are_read_again() -> None:
    clock = Clock()
    account = Account(key(requests_per_minute=2, tokens_per_minute=10), Tenant(), clock)
    account.admit()
    account.charge(10)
    account.limit(key(requests_per_minute=2, tokens_per_minute=20), Tenant("other"))
    assert (account.tenant, account.usage.requests, account.usage.tokens) == (Tenant("other"), 1, 10)
    assert account.requests is not None
    assert account.tokens is not None
    assert (account.requests.remaining, account.tokens.remaining) == (1, 20)
    account.limit(key(), Tenant())
    for _ in range(10):
        account.admit()


def test_so_many_requests_at_a_time() -> None:
    account = Account(key(concurrent_requests=2), Tenant())
    account.running = 1
    account.require_place()
    account.running = 2
    with pytest.raises(RateLimited, match="2 requests of the key 'reader'"):
        account.require_place()
