"""Texts to token ids and back."""

from typing import Annotated

from pydantic import BaseModel, Field

from server.http.schemas.base import Body, ModelName, ParseSpecial, Text, TokenIds, example
from server.limits import MAX_TOKENIZED


class TokenizeRequest(Body):
    model_config = example(text="The lighthouse keeper")

    model: ModelName = None
    text: Annotated[Text, Field(max_length=MAX_TOKENIZED)]
    add_special_tokens: bool = True
    parse_special: ParseSpecial = False


class TokenizeResponse(BaseModel):
    tokens: list[int]
    token_strs: list[str]
    count: int
    max_model_len: int


class DetokenizeRequest(Body):
    model_config = example(tokens=[531, 1537, 5307, 745, 5683])

    model: ModelName = None
    tokens: TokenIds


class DetokenizeResponse(BaseModel):
    text: str
