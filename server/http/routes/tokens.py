"""Texts to token ids and back, and the server's limits."""

import asyncio
from importlib.metadata import version

from fastapi import APIRouter

from server.http.answers.summaries import With, errors
from server.http.schemas import native, rerank, summaries
from server.http.schemas import tokens as schemas

SHOWN_SETTINGS = {"attention", "default_ttl_seconds", "max_batch_tokens", "prefix_cache_bytes", "raw_tokens"}

router = APIRouter(responses=errors())


@router.post("/tokenize", tags=["tokens"])
async def tokenize(body: schemas.TokenizeRequest, served: With) -> schemas.TokenizeResponse:
    """A text's token ids, as the server reads it at the start of a document."""
    served.model.require_name(body.model)
    tokens = await asyncio.to_thread(served.model.tokenise, body.text, is_start=body.add_special_tokens)
    strings = await asyncio.to_thread(served.model.tokenizer.convert_ids_to_tokens, tokens)
    return schemas.TokenizeResponse(
        tokens=tokens, token_strs=strings, count=len(tokens), max_model_len=served.model.max_sequence_tokens
    )


@router.post("/detokenize", tags=["tokens"])
async def detokenize(body: schemas.DetokenizeRequest, served: With) -> schemas.DetokenizeResponse:
    """The text of token ids, special tokens included."""
    served.model.require_name(body.model)
    served.model.require_known(body.tokens, param="tokens")
    text = await asyncio.to_thread(served.model.tokenizer.decode, body.tokens)
    return schemas.DetokenizeResponse(text=text)


@router.get("/info", tags=["models"])
async def info(served: With) -> schemas.InfoResponse:
    """Every limit and setting that matters to a client."""
    model, settings = served.model, served.settings
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
            "max_documents": summaries.MAX_DOCUMENTS,
            "max_documents_together": served.intake.max_together,
            "max_rerank_documents": rerank.MAX_PASSAGES,
            "max_continuations": native.MAX_CONTINUATIONS,
            "max_context_parts": native.MAX_PARTS,
            "max_stop_strings": native.MAX_STOPS,
            "max_metadata_entries": summaries.MAX_METADATA,
            "max_ttl_seconds": native.MAX_TTL_SECONDS,
            "max_listed": summaries.MAX_LISTED,
        },
        settings=settings.model_dump(include=SHOWN_SETTINGS),
    )
