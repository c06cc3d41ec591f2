"""`/info`: the server's limits and settings."""

from importlib.metadata import version

from fastapi import APIRouter

from server import limits
from server.http.answers.dependencies import WithCore
from server.http.answers.errors import possible_errors
from server.http.routing import Route
from server.http.schemas import models as schemas

SHOWN_SETTINGS = {
    *("attention", "default_ttl_seconds", "max_batch_tokens", "prefix_cache_bytes", "raw_tokens", "stored_vectors")
}

router = APIRouter(route_class=Route, responses=possible_errors())


@router.get("/info", tags=["models"])
async def info(core: WithCore) -> schemas.InfoResponse:
    """Every limit and setting that matters to a client."""
    services, settings = core.models.default, core.settings
    model = services.model
    return schemas.InfoResponse(
        version=version("autocompressor"),
        model={
            "id": model.name,
            "fingerprint": model.fingerprint,
            "segment_length": model.config.segment_length,
            "summary_length": model.config.summary_length,
            "accumulate_summary": model.config.accumulate_summary,
            "compressor": model.config.compressor,
            "reads_alone": model.config.reads_alone,
            "is_trained": model.is_trained,
            "sampling": dict(model.sampling),
            "has_chat_template": model.has_chat_template,
            "hidden_size": model.hidden_size,
            "vocabulary_size": model.vocabulary_size,
            "dtype": model.dtype,
            "device": model.device,
        },
        limits={
            "max_positions": model.positions.max_positions,
            "max_sequence_tokens": model.max_sequence_tokens,
            "max_document_tokens": model.max_document_tokens,
            "max_body_bytes": settings.max_body_bytes,
            "max_requests": settings.max_requests,
            "max_running_sequences": settings.max_running_sequences,
            "max_documents": limits.MAX_DOCUMENTS,
            "max_documents_together": services.intake.max_together,
            "max_rerank_documents": limits.MAX_PASSAGES,
            "max_continuations": limits.MAX_CONTINUATIONS,
            "max_context_parts": limits.MAX_PARTS,
            "max_stop_strings": limits.MAX_STOPS,
            "max_metadata_entries": limits.MAX_METADATA,
            "max_ttl_seconds": limits.MAX_TTL_SECONDS,
            "max_listed": limits.MAX_LISTED,
        },
        settings=settings.model_dump(include=SHOWN_SETTINGS),
    )
