"""Errors as HTTP and OpenAI's clients know them."""

from typing import Any

from server import errors
from server.errors import ServiceError
from server.http.schemas.errors import ErrorDetail, ErrorResponse

# OpenAI's `type`: whose fault it is
CLIENT, RATE, SERVER = "invalid_request_error", "rate_limit_error", "server_error"
QUOTA = "insufficient_quota"
STATUS: dict[type[ServiceError], tuple[int, str]] = {
    errors.InvalidRequest: (400, CLIENT),
    errors.Unauthorized: (401, CLIENT),
    errors.Forbidden: (403, CLIENT),
    errors.KeyNotFound: (404, CLIENT),
    errors.SummaryNotFound: (404, CLIENT),
    errors.ModelNotFound: (404, CLIENT),
    errors.CorpusNotFound: (404, CLIENT),
    errors.JobNotFound: (404, CLIENT),
    errors.ResponseNotFound: (404, CLIENT),
    errors.PreviousResponseNotFound: (400, CLIENT),
    errors.CompactionExpired: (400, CLIENT),
    errors.ModelMismatch: (409, CLIENT),
    errors.TooLong: (413, CLIENT),
    errors.IdempotencyMismatch: (422, CLIENT),
    errors.EngineFailed: (424, SERVER),
    errors.Overloaded: (429, RATE),
    errors.RateLimited: (429, RATE),
    errors.QuotaReached: (429, QUOTA),
    errors.Internal: (500, SERVER),
    errors.NotServed: (501, SERVER),
    errors.NotReady: (503, SERVER),
    errors.StoreExhausted: (507, SERVER),
}


def status_of(error: ServiceError) -> int:
    return STATUS[type(error)][0]


def error_detail(error: ServiceError) -> ErrorDetail:
    return ErrorDetail(message=error.message, type=STATUS[type(error)][1], param=error.param, code=error.code)


def possible_errors() -> dict[int | str, dict[str, Any]]:
    """For OpenAPI: the statuses any endpoint that works may answer with."""
    return {status: {"model": ErrorResponse} for status in (400, 401, 404, 409, 413, 422, 424, 429, 501, 503, 507)}
