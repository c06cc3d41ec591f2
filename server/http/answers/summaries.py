"""What native endpoints share: their errors, and summaries as they are described to clients."""

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import Depends, Path

from server.core.documents.compression import Compressed
from server.core.documents.summaries import Summary
from server.core.services import Services, services
from server.errors import ServiceError
from server.http.answers.receipts import compressed_receipt
from server.http.schemas import native, summaries

With = Annotated[Services, Depends(services)]
IdInPath = Annotated[str, Path(description="A summary's id, as /compress gave it.")]


def errors() -> dict[int | str, dict[str, Any]]:
    """For OpenAPI: the statuses any native endpoint may answer with."""
    return {status: {"model": native.ErrorResponse} for status in (400, 404, 409, 413, 422, 424, 429, 503, 507)}


def error_detail(error: ServiceError) -> native.ErrorDetail:
    return native.ErrorDetail(message=error.message, type=error.kind, param=error.param, code=error.code)


def num_expanded(expand: native.Expand | None) -> int:
    """How many segments a request wants as text."""
    return 0 if expand is None else expand.segments


def described(summary: Summary, served: Services) -> dict[str, Any]:
    manifest = summary.manifest
    return {
        "id": summary.id,
        "model": served.model.name,
        "created": int(manifest.created),
        "tokens": summary.tokens,
        "segments": len(manifest.segments),
        "vectors": manifest.vectors,
        "compression_ratio": round(summary.compression_ratio, 2),
        "parent": manifest.parent,
        "has_text": manifest.has_text,
        "metadata": manifest.metadata,
    }


def compressed(done: Compressed, served: Services) -> summaries.CompressResponse:
    timings = summaries.CompressTimings(
        tokenize_seconds=done.tokenize_seconds,
        engine_seconds=done.engine_seconds,
        store_seconds=done.total_seconds - done.engine_seconds - done.tokenize_seconds,
        total_seconds=done.total_seconds,
    )
    measured = done.retention
    return summaries.CompressResponse(
        **described(done.summary, served),
        retention=None if measured is None else summaries.Retention(**asdict(measured), share=measured.share),
        cached_segments=done.cached_segments,
        timings=timings,
        receipt=compressed_receipt(done),
    )
