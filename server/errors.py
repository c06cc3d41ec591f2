"""Errors that whoever asked is told about; `http/answers/errors.py` alone knows their statuses."""


class ServiceError(Exception):
    """A request that ends in an error; programs tell it by `code`, and `param` names the field at fault."""

    code = "internal"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class InvalidRequest(ServiceError):
    """Well-formed, but not something that can be done: an empty text, an unknown token id."""

    code = "invalid_request"


class TooLong(ServiceError):
    """What can never fit the model or the server's limits, refused before any work."""

    code = "context_length_exceeded"


class Unauthorized(ServiceError):
    """No key where one is wanted, or none that is known."""

    code = "invalid_api_key"


class Forbidden(ServiceError):
    """Something that this key may not do."""

    code = "forbidden"


class KeyNotFound(ServiceError):
    """No key of this name."""

    code = "key_not_found"


class SummaryNotFound(ServiceError):
    """No such summary, or no longer: deleted, or its time to live is over."""

    code = "summary_not_found"


class ModelNotFound(ServiceError):
    """A request for another model than the one served."""

    code = "model_not_found"


class CorpusNotFound(ServiceError):
    """No corpus of this name is served."""

    code = "corpus_not_found"


class JobNotFound(ServiceError):
    """No such job, or no longer: they are kept for a while after their end."""

    code = "job_not_found"


class ResponseNotFound(ServiceError):
    """No such response, or no longer: deleted, not stored, or its time to live is over."""

    code = "not_found"


class PreviousResponseNotFound(ServiceError):
    """A response to go on from that is not there, or one before it."""

    code = "previous_response_not_found"


class CompactionExpired(ServiceError):
    """A compaction item that is whole, and whose vectors the store no longer has."""

    code = "compaction_expired"


class IdempotencyMismatch(ServiceError):
    """An Idempotency-Key that was used for another request."""

    code = "idempotency_mismatch"


class ModelMismatch(ServiceError):
    """A summary that another model made; its vectors mean nothing to this one."""

    code = "model_mismatch"


class Overloaded(ServiceError):
    """The queue is full; the client should come back later."""

    code = "overloaded"


class RateLimited(ServiceError):
    """More than the caller's key may do now; `seconds` until it may again."""

    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, param: str | None = None, seconds: float = 1.0) -> None:
        super().__init__(message, param=param)
        self.seconds = seconds


class QuotaReached(ServiceError):
    """The tenant has stored as much as it may; to wait is of no use, to delete is."""

    code = "insufficient_quota"


class NotReady(ServiceError):
    """The engine or the store cannot serve now."""

    code = "not_ready"


class NotServed(ServiceError):
    """Work of the other role: this process compresses alone, or generates alone."""

    code = "not_served"


class StoreExhausted(ServiceError):
    """The store has no room left for another summary."""

    code = "store_full"


class EngineFailed(ServiceError):
    """The forward pass this request was part of failed; nothing of it was kept."""

    code = "engine_failed"


class Internal(ServiceError):
    """A defect of the server's own, or a stored record that is damaged."""
