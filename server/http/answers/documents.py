"""Documents of requests, and summaries as they are described to clients."""

from dataclasses import asdict
from typing import Any

from server.core.documents.document import Compressed, Document
from server.core.services import Services
from server.core.tenant import Tenant
from server.http.answers.receipts import shown_receipt, timing_headers
from server.http.schemas import summaries as schemas


def document(body: schemas.Wanted, tenant: Tenant, *, within: schemas.Wanted | None = None, **given: Any) -> Document:
    """What a request wants compressed.

    Args:
        within: of a request with several documents, what it says for all of them.
        given: `text` or `token_ids`, `parent` and `metadata`.
    """
    ttl_seconds = within.ttl_seconds if within is not None and body.ttl_seconds is None else body.ttl_seconds
    return Document(
        tenant=tenant,
        ttl_seconds=ttl_seconds,
        keep_text=body.keep_text or (within is not None and within.keep_text),
        parse_special=body.parse_special or (within is not None and within.parse_special),
        measures=body.measure or (within is not None and within.measure),
        **given,
    )


def compressed(done: Compressed, services: Services) -> schemas.CompressResponse:
    measured = done.retention
    return schemas.CompressResponse(
        **done.summary.described(services.model.name),
        retention=None if measured is None else schemas.Retention(**asdict(measured), share=measured.share),
        cached_segments=done.cached_segments,
        timings=schemas.CompressTimings(**asdict(done.timings)),
        receipt=shown_receipt(done.receipt),
    )


def compressed_headers(done: list[Compressed], started: float) -> dict[str, str]:
    """The timing headers of documents, compressed together: the longest wait, the longest work."""
    receipts = [each.receipt for each in done]
    return timing_headers(
        max(each.queue_seconds for each in receipts), max(each.compute_seconds for each in receipts), started
    )
