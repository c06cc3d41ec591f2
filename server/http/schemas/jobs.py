"""Long work, asked for now and fetched later."""

from typing import Literal

from pydantic import BaseModel

from server.http.schemas.errors import ErrorDetail
from server.http.schemas.summaries import CompressedList, CompressResponse


class JobProgress(BaseModel):
    segments_done: int
    segments_total: int | None


class JobResponse(BaseModel):
    """`result` is what POST /compress answers; null until the job is done."""

    id: str
    object: Literal["job"] = "job"
    status: Literal["queued", "running", "done", "failed", "cancelled"]
    progress: JobProgress
    result: CompressResponse | CompressedList | None
    error: ErrorDetail | None
    created: int
