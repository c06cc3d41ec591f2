"""Texts to token ids and back."""

import asyncio

from fastapi import APIRouter

from server.http.answers.dependencies import WithCore
from server.http.answers.errors import possible_errors
from server.http.routing import Route
from server.http.schemas import tokens as schemas

router = APIRouter(route_class=Route, responses=possible_errors())


@router.post("/tokenize", tags=["tokens"])
async def tokenize(body: schemas.TokenizeRequest, core: WithCore) -> schemas.TokenizeResponse:
    """A text's token ids, as /compress reads it at the start of a document.

    With `parse_special`, as /generate and /v1/completions read it as a prompt.
    """
    model = core.models.named(body.model).model
    tokens = await asyncio.to_thread(
        model.tokenise,
        body.text,
        is_start=body.add_special_tokens,
        parse_special=body.parse_special,
        param="text",
    )
    strings = await asyncio.to_thread(model.tokenizer.convert_ids_to_tokens, tokens)
    return schemas.TokenizeResponse(
        tokens=tokens, token_strs=strings, count=len(tokens), max_model_len=model.max_sequence_tokens
    )


@router.post("/detokenize", tags=["tokens"])
async def detokenize(body: schemas.DetokenizeRequest, core: WithCore) -> schemas.DetokenizeResponse:
    """The text of token ids, special tokens included."""
    model = core.models.named(body.model).model
    model.require_known(body.tokens, param="tokens")
    text = await asyncio.to_thread(model.tokenizer.decode, body.tokens)
    return schemas.DetokenizeResponse(text=text)
