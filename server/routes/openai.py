"""What OpenAI's clients ask for."""

from typing import Annotated

from fastapi import APIRouter, Depends

from server.schemas import native as schemas
from server.services import Services, services

router = APIRouter(tags=["models"])


@router.get("/v1/models")
async def list_models(served: Annotated[Services, Depends(services)]) -> schemas.ModelList:
    """The one model that is served, and its limits."""
    model = served.model
    meta = {
        "fingerprint": model.fingerprint,
        "summary_length": model.config.summary_length,
        "accumulate_summary": model.config.accumulate_summary,
        "segment_length": model.config.segment_length,
        "max_positions": model.positions.max_positions,
        "max_sequence_tokens": model.max_sequence_tokens,
        "hidden_size": model.hidden_size,
        "vocabulary_size": model.vocabulary_size,
        "dtype": model.dtype,
        "device": model.device,
    }
    return schemas.ModelList(data=[schemas.ModelCard(id=model.name, created=model.created, meta=meta)])
