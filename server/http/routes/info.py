"""`/info`: the server's limits and settings."""

from importlib.metadata import version
from typing import Annotated

from fastapi import APIRouter, Query

from server import limits
from server.http.answers.dependencies import WithCore
from server.http.answers.errors import possible_errors
from server.http.routing import Route
from server.http.schemas import models as schemas
from server.http.schemas.base import Parameters

SHOWN_SETTINGS = {
    *("attention", "default_ttl_seconds", "max_batch_tokens", "prefix_cache_bytes", "raw_tokens", "stored_vectors")
}

router = APIRouter(route_class=Route, responses=possible_errors())


@router.get("/info", tags=["models"])
async def info(core: WithCore, asked: Annotated[Parameters, Query()]) -> schemas.InfoResponse:
    """Every limit and setting that matters to a client of one model, and the names of all that are served."""
    services, settings = core.models.named(asked.model), core.settings
    served = services.model
    return schemas.InfoResponse(
        version=version("autocompressor"),
        models=list(core.models.by_name),
        corpora=[
            {
                "id": each.name,
                "model": core.models.of(each.manifest.fingerprint).model.name,
                "passages": each.manifest.num_passages,
                "vectors": each.manifest.vectors,
                "nearest": each.manifest.nearest,
            }
            for each in core.corpora.by_name.values()
        ],
        model={
            "id": served.name,
            "fingerprint": served.fingerprint,
            "segment_length": served.config.segment_length,
            "summary_length": served.config.summary_length,
            "accumulate_summary": served.config.accumulate_summary,
            "compressor": served.config.compressor,
            "reads_alone": served.config.reads_alone,
            "is_trained": served.is_trained,
            "sampling": dict(served.sampling),
            "has_chat_template": served.has_chat_template,
            "hidden_size": served.hidden_size,
            "vocabulary_size": served.vocabulary_size,
            "dtype": served.dtype,
            "device": served.device,
        },
        limits={
            "max_positions": served.positions.max_positions,
            "max_sequence_tokens": served.max_sequence_tokens,
            "max_document_tokens": served.max_document_tokens,
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
