"""A job, as it is kept in the store and told to whoever asks."""

import hashlib
import time
import uuid
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from server.core.checked import checked, with_checksum
from server.core.documents.progress import Progress
from server.errors import Internal, ServiceError
from server.store.codec import CorruptRecord

Status = Literal["queued", "running", "done", "failed", "cancelled"]


@dataclass(frozen=True)
class Failure:
    """A `ServiceError`, without the frames it came through."""

    code: str
    message: str
    param: str | None

    @classmethod
    def of(cls, error: ServiceError) -> "Failure":
        return cls(error.code, error.message, error.param)

    @property
    def error(self) -> ServiceError:
        """As it was raised; `Internal` where this version has no error of its code."""
        kinds = {kind.code: kind for kind in ServiceError.__subclasses__()}
        return kinds.get(self.code, Internal)(self.message, param=self.param)


@dataclass(frozen=True, kw_only=True)
class Job:
    """Long work that a client comes back for; nothing of it but its answer tells of a text.

    Attributes:
        tenant: the name of whose it is. caller: of the key that it is charged to, None where the server has no keys.
        digest: SHA-256 of the request, in hexadecimal. num_bytes: that the request has.
        key: SHA-256 of the Idempotency-Key.
        created: seconds since the epoch.
        attempts: how often it was begun, and not given back.
        result: what the work gave, as JSON has it; of a job that is done.
    """

    tenant: str
    caller: str | None
    digest: str
    num_bytes: int
    key: str | None = None
    id: str = field(default_factory=lambda: f"job-{uuid.uuid4().hex}")
    created: float = field(default_factory=time.time)
    attempts: int = 0
    status: Status = "queued"
    progress: Progress | None = None
    result: Any = None
    failure: Failure | None = None

    @property
    def is_ended(self) -> bool:
        return self.status not in ("queued", "running")


_jobs = TypeAdapter(Job)
_progress = TypeAdapter(Progress)


def digest_of(data: bytes) -> str:
    """SHA-256, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def encoded(job: Job) -> bytes:
    return with_checksum(_jobs.dump_json(job))


def decoded(value: bytes) -> Job:
    """Raises CorruptRecord."""
    try:
        return _jobs.validate_json(checked(value, what="a job"))
    except ValidationError as error:
        raise CorruptRecord("not a job: its fields cannot be read") from error


def encoded_progress(progress: Progress) -> bytes:
    return _progress.dump_json(progress)


def decoded_progress(value: bytes) -> Progress | None:
    """None where it cannot be read: it is told a moment later again."""
    try:
        return _progress.validate_json(value)
    except ValidationError:
        return None
