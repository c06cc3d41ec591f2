"""Errors as OpenAI's API has them."""

from pydantic import BaseModel


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str


class ErrorResponse(BaseModel):
    """The envelope of OpenAI's API."""

    error: ErrorDetail
