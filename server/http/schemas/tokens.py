"""Texts to token ids and back."""

from pydantic import BaseModel

from server.http.schemas.base import Body, ParseSpecial, Text, TokenIds, example


class TokenizeRequest(Body):
    model_config = example(text="The lighthouse keeper")

    model: Text | None = None
    text: Text
    add_special_tokens: bool = True
    parse_special: ParseSpecial = False


class TokenizeResponse(BaseModel):
    tokens: list[int]
    token_strs: list[str]
    count: int
    max_model_len: int


class DetokenizeRequest(Body):
    model_config = example(tokens=[531, 1537, 5307, 745, 5683])

    model: Text | None = None
    tokens: TokenIds


class DetokenizeResponse(BaseModel):
    text: str
