"""Stored summaries: listed, described, deleted, exported, imported."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from server.engine.detokenizer import pieces
from server.http.answers.dependencies import IdInPath, WithCore, WithTenant
from server.http.answers.errors import possible_errors
from server.http.routing import Route
from server.http.schemas import summaries as schemas

SAFETENSORS = "application/octet-stream"
BINARY: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}

router = APIRouter(route_class=Route, responses=possible_errors(), tags=["summaries"])


@router.get("/summaries")
async def list_summaries(
    core: WithCore, tenant: WithTenant, asked: Annotated[schemas.ListParameters, Query()]
) -> schemas.SummaryList:
    """The stored summaries of one model and tenant, newest first."""
    services = core.models.named(asked.model)
    page, has_more = await services.summaries.of(tenant).page(limit=asked.limit, after=asked.after)
    data = [schemas.SummaryResponse(**summary.described(services.model.name)) for summary in page]
    return schemas.SummaryList(data=data, has_more=has_more)


@router.get(
    "/summaries/{summary_id}",
    response_model=schemas.StoredSummaryResponse,
    responses={200: {"content": {SAFETENSORS: BINARY, "text/plain": {"schema": {"type": "string"}}}}},
)
async def get_summary(
    summary_id: IdInPath, core: WithCore, tenant: WithTenant, asked: Annotated[schemas.GetParameters, Query()]
) -> Any:
    """Describe a stored summary, or export it.

    `safetensors` is a file that PUT takes on a server of the same model, tenant_salt and store or export_secret;
    `prompt_embeds` is what vLLM takes under that name, base64 of a saved tensor.
    """
    services = core.models.named(asked.model)
    summary = await services.summaries.of(tenant).get(summary_id, param="id")
    if asked.format == "safetensors":
        name = f'attachment; filename="{summary.id}.safetensors"'
        data = await services.portable.export(summary, tenant)
        return Response(data, media_type=SAFETENSORS, headers={"Content-Disposition": name})
    if asked.format == "prompt_embeds":
        return Response(await services.portable.prompt_embeds(summary, tenant), media_type="text/plain")
    return schemas.StoredSummaryResponse(
        **summary.described(services.model.name),
        segment_tokens=list(summary.manifest.segment_tokens),
        expires_in_seconds=await services.summaries.of(tenant).seconds_to_live(summary.id),
    )


@router.get("/summaries/{summary_id}/segments")
async def list_segments(
    summary_id: IdInPath,
    core: WithCore,
    tenant: WithTenant,
    asked: Annotated[schemas.SegmentsParameters, Query()],
) -> schemas.SegmentList:
    """A document's segments in order: which of their tokens their vectors stand at, and the text where it was kept."""
    services = core.models.named(asked.model)
    summaries = services.summaries.of(tenant)
    summary = await summaries.get(summary_id, param="id")
    first = 0 if asked.after is None else asked.after + 1
    numbers = range(len(summary.manifest.segments))[first : first + asked.limit]
    found = await summaries.read_segments(summary, numbers)
    texts: list[tuple[int, ...] | None] = [None] * len(numbers)
    if summary.manifest.has_text:
        texts = await summaries.segments.texts([summary.manifest.segments[number] for number in numbers])
    tokenizer = services.model.tokenizer
    data = await asyncio.to_thread(
        lambda: [
            schemas.SegmentResponse(
                segment=number,
                tokens=summary.manifest.segment_tokens[number],
                vectors=len(each),
                anchors=None if each.anchors is None else each.anchors.tolist(),
                ranks=None if each.ranks is None else each.ranks.tolist(),
                pieces=None if text is None else pieces(text, tokenizer),
            )
            for number, each, text in zip(numbers, found, texts, strict=True)
        ]
    )
    return schemas.SegmentList(data=data, has_more=first + len(numbers) < len(summary.manifest.segments))


@router.put(
    "/summaries/{summary_id}",
    status_code=201,
    responses={200: {"model": schemas.SummaryResponse, "description": "The summary was there already."}},
    openapi_extra={"requestBody": {"required": True, "content": {SAFETENSORS: BINARY}}},
)
async def put_summary(
    summary_id: IdInPath,
    request: Request,
    response: Response,
    core: WithCore,
    tenant: WithTenant,
    asked: Annotated[schemas.PutParameters, Query()],
) -> schemas.SummaryResponse:
    """Import a summary that a server of the same model, tenant_salt and store or export_secret exported.

    It lives as `/compress` would have it: `ttl_seconds`, else the server's default, and never shorter than before.
    """
    services = core.models.named(asked.model)
    summary, is_new = await services.portable.take(
        summary_id, await request.body(), tenant=tenant, ttl_seconds=asked.ttl_seconds
    )
    response.status_code = 201 if is_new else 200
    return schemas.SummaryResponse(**summary.described(services.model.name))


@router.delete("/summaries/{summary_id}")
async def delete_summary(summary_id: IdInPath, core: WithCore, tenant: WithTenant) -> schemas.DeletedResponse:
    """Delete a summary, of whichever model. Segments that other summaries share stay."""
    await core.models.default.summaries.of(tenant).delete(summary_id)
    return schemas.DeletedResponse(id=summary_id)
