"""Callers as HTTP knows them: the key that they send, and what they are told of their limits."""

import math
from collections.abc import Mapping
from typing import Any, cast

from starlette.datastructures import Headers

from server.core.callers.accounts import Account
from server.core.callers.rates import MINUTE, Bucket
from server.core.callers.visit import Visit
from server.errors import Forbidden, QuotaReached, RateLimited, ServiceError, Unauthorized

VISIT = "autocompressor.visit"  # in a request's scope


def bearer(headers: Headers) -> str | None:
    """The key of an Authorization header (RFC 6750, section 2.1); None where there is none."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() or None if scheme.lower() == "bearer" else None


def visit_of(scope: Mapping[str, Any]) -> Visit | None:
    """The visit that a request is; None where the server has no keys, and on routes that want none."""
    return cast(Visit | None, scope.get(VISIT))


def require_admin(scope: Mapping[str, Any]) -> None:
    """Forbidden where the request's key is no admin's; where the server has no keys nobody is refused."""
    visit = visit_of(scope)
    if visit is not None and not visit.account.key.admin:
        raise Forbidden(f"the key {visit.account.key.name!r} is no admin's")


def error_headers(error: ServiceError) -> dict[str, str]:
    """What a refusal says beside its words: how to come in (RFC 6750, section 3), or when to come back.

    OpenAI's clients try each 429 again, unless `x-should-retry` says that it is of no use.
    """
    if isinstance(error, Unauthorized):
        return {"WWW-Authenticate": "Bearer"}
    if isinstance(error, QuotaReached):
        return {"x-should-retry": "false"}
    return {"Retry-After": str(_seconds(error.seconds))} if isinstance(error, RateLimited) else {}


def limit_headers(account: Account) -> dict[str, str]:
    """The limits of a key and what is left of them; nothing of those that it does not have.

    As draft-ietf-httpapi-ratelimit-headers-10 has them, and as OpenAI's clients read them.
    """
    buckets = {"requests": account.requests, "tokens": account.tokens}
    limited = {name: bucket for name, bucket in buckets.items() if bucket is not None}
    policies = [f'"{name}";q={bucket.limit};w={MINUTE:.0f}{_unit(name)}' for name, bucket in limited.items()]
    states = [
        f'"{name}";r={bucket.remaining};t={_seconds(bucket.seconds_until_full)}' for name, bucket in limited.items()
    ]
    if (most := account.key.concurrent_requests) is not None:
        policies.append(f'"concurrent";q={most};qu="concurrent-requests"')
        states.append(f'"concurrent";r={max(0, most - account.running)}')
    standard = {"RateLimit-Policy": ", ".join(policies), "RateLimit": ", ".join(states)} if policies else {}
    return standard | {
        header: value for name, bucket in limited.items() for header, value in _as_openai(name, bucket).items()
    }


def _as_openai(name: str, bucket: Bucket) -> dict[str, str]:
    return {
        f"x-ratelimit-limit-{name}": str(bucket.limit),
        f"x-ratelimit-remaining-{name}": str(bucket.remaining),
        f"x-ratelimit-reset-{name}": f"{bucket.seconds_until_full:.3f}s",
    }


def _unit(name: str) -> str:
    return "" if name == "requests" else f';qu="{name}"'  # requests are what a quota is of without a unit


def _seconds(seconds: float) -> int:
    return math.ceil(seconds)
