"""`/search` and `/ask`: passages of a corpus for a query, and an answer from them."""

from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from server.core.core import Core
from server.core.corpora.corpus import Corpus
from server.core.receipts import Stopwatch
from server.core.services import Services
from server.core.tenant import Tenant
from server.http.answers import sse
from server.http.answers.dependencies import WithCore, WithTenant
from server.http.answers.errors import possible_errors
from server.http.answers.receipts import headers
from server.http.answers.sampling import sampling_params
from server.http.answers.searches import Asked, shown_search, wanted_of
from server.http.answers.waiting import unless_disconnected
from server.http.routing import Route
from server.http.schemas import corpora as schemas

router = APIRouter(route_class=Route, responses=possible_errors(), tags=["corpora"])


@router.post("/search")
async def search(
    body: schemas.SearchRequest, request: Request, response: Response, core: WithCore, tenant: WithTenant
) -> schemas.SearchResponse:
    """Find passages of a corpus: candidates by words or nearness, ordered by how likely they make the query.

    Corpora are the server's (`--corpora`), made by `autocompressor index`; every caller may search all of them. Of a
    corpus the model that made its vectors answers, whichever of the served ones that is.
    """
    watch = Stopwatch()
    corpus, services = _named(core, body)
    wanted = wanted_of(body)
    look = partial(services.searcher.search, corpus, wanted, tenant=tenant, watch=watch)
    found = await unless_disconnected(request, services.door.through(look) if wanted.needs_engine else look())
    response.headers.update(headers(watch))
    return shown_search(found, corpus=corpus.name, model=services.model.name)


@router.post("/ask", response_model=schemas.AskResponse, responses={200: {"content": sse.CONTENT}})
async def ask(
    body: schemas.AskRequest, request: Request, response: Response, core: WithCore, tenant: WithTenant
) -> Any:
    """Answer a question from a corpus: search it, and generate after the hits' summaries, the best nearest to it.

    The question is a user's message where the model has a chat template, else a prompt as of /generate. With `stream`,
    server-sent events as of /generate, and before them one with `search`, what the answer stands on.
    """
    watch = Stopwatch()
    corpus, services = _named(core, body)
    work = services.door.through(partial(_asked, corpus, services, body, tenant, watch))
    asked = await unless_disconnected(request, work)
    if body.stream:
        stream = await sse.streamed(request, asked.chunks())
        stream.headers.update(asked.headers(watch))
        return stream
    whole = await unless_disconnected(request, asked.whole())
    response.headers.update(asked.headers(watch))
    return whole


def _named(core: Core, body: schemas.SearchBody) -> tuple[Corpus, Services]:
    """The corpus that is asked, and what is served of the model that is named or, where none is, made it."""
    corpus = core.corpora.named(body.corpus)
    if body.model is not None:
        return corpus, core.models.named(body.model)
    return corpus, core.models.of(corpus.manifest.fingerprint)


async def _asked(
    corpus: Corpus, services: Services, body: schemas.AskRequest, tenant: Tenant, watch: Stopwatch
) -> Asked:
    found = await services.searcher.search(corpus, wanted_of(body), tenant=tenant, watch=watch)
    generation = await services.asker.begin(
        body.query,
        found.hits,
        partial(sampling_params, body, services.model),
        tenant=tenant,
        max_tokens=body.max_tokens,
        max_vectors=body.max_vectors,
        num_expanded=0 if body.expand is None else body.expand.segments,
    )
    name = services.model.name
    return Asked(generation, name, shown_search(found, corpus=corpus.name, model=name))
