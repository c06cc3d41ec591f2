"""`/v1/models`: what is served, as OpenAI's clients ask for it."""

from fastapi import APIRouter

from server.core.served_model import ServedModel
from server.http.answers.dependencies import WithCore
from server.http.routing import Route
from server.http.schemas import models as schemas
from server.http.schemas.errors import ErrorResponse

router = APIRouter(route_class=Route, tags=["models"])


@router.get("/v1/models/", include_in_schema=False)
@router.get("/v1/models")
async def list_models(core: WithCore) -> schemas.ModelList:
    """The models that are served, and their limits; one that has several names under each."""
    return schemas.ModelList(data=[_card(name, each.model) for name, each in core.models.by_name.items()])


@router.get("/v1/models/{model_id:path}", responses={404: {"model": ErrorResponse}})
async def get_model(model_id: str, core: WithCore) -> schemas.ModelCard:
    """The model of this name."""
    return _card(model_id, core.models.named(model_id).model)


def _card(name: str, model: ServedModel) -> schemas.ModelCard:
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
    return schemas.ModelCard(id=name, created=model.created, meta=meta)
