"""Bodies of /generate."""

from typing import Literal

from pydantic import BaseModel, Field

from server.http.schemas.base import EXAMPLE_ID, ModelName, example
from server.http.schemas.conditioning import Conditioned, Sampling
from server.http.schemas.receipts import Receipt, Usage
from server.limits import MAX_NEW_TOKENS


class GenerateRequest(Conditioned, Sampling):
    model_config = example(summary_ids=[EXAMPLE_ID], prompt="I looked at", max_tokens=24, seed=1)

    model: ModelName = None
    max_tokens: int | None = Field(None, ge=1, le=MAX_NEW_TOKENS, description="None: as many as fit, up to 128.")
    stream: bool = False


class GenerateTimings(BaseModel):
    time_to_first_token_seconds: float
    total_seconds: float


class GenerateResponse(BaseModel):
    id: str
    object: Literal["generation"] = "generation"
    model: str
    text: str
    finish_reason: Literal["stop", "length"]
    usage: Usage
    timings: GenerateTimings
    receipt: Receipt


class GenerateChunk(BaseModel):
    """One server-sent event of a stream; the last has a finish reason, usage and timings."""

    id: str
    object: Literal["generation.chunk"] = "generation.chunk"
    model: str
    text: str
    finish_reason: Literal["stop", "length"] | None = None
    usage: Usage | None = None
    timings: GenerateTimings | None = None
    receipt: Receipt | None = None
