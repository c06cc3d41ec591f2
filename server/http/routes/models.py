"""What OpenAI's clients ask for."""

from typing import Annotated

from fastapi import APIRouter, Depends

from server.core.served_model import ServedModel
from server.core.services import Services, services
from server.http.schemas import native as schemas

With = Annotated[Services, Depends(services)]
router = APIRouter(tags=["models"])


@router.get("/v1/models")
async def list_models(served: With) -> schemas.ModelList:
    """The one model that is served, and its limits."""
    return schemas.ModelList(data=[_card(served.model)])


@router.get("/v1/models/{model_id:path}", responses={404: {"model": schemas.ErrorResponse}})
async def get_model(model_id: str, served: With) -> schemas.ModelCard:
    """The model of this name."""
    served.model.require_name(model_id)
    return _card(served.model)


def _card(model: ServedModel) -> schemas.ModelCard:
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
    return schemas.ModelCard(id=model.name, created=model.created, meta=meta)
