"""What is served, with its limits, and whether it can serve."""

from typing import Any, Literal

from pydantic import BaseModel, Field


class ModelCard(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "autocompressor"
    meta: dict[str, Any]


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelCard]


class Health(BaseModel):
    status: Literal["ok", "unavailable"]
    checks: dict[str, str]


class InfoResponse(BaseModel):
    object: Literal["info"] = "info"
    version: str
    models: list[str] = Field(description="Names that are served, the first of them where a call names none.")
    corpora: list[dict[str, Any]] = Field(description="What /search and /ask search, and whose vectors they are of.")
    model: dict[str, Any]
    limits: dict[str, int | None]
    settings: dict[str, Any]
