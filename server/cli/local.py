"""The calls of a client without a server: the core in this process, its answers as the client's."""

import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from dataclasses import asdict
from typing import Any

from autocompressor import (
    AutocompressorError,
    Chunk,
    Compressed,
    Generation,
    Progress,
    Ranking,
    Score,
    Scores,
    StoredSummary,
    Summary,
    SummaryPage,
)
from autocompressor.results import Ranked, Usage
from server import log
from server.cli import terminal
from server.core import generating, receipts
from server.core.build import open_core
from server.core.core import Core
from server.core.documents import progress as core_progress
from server.core.documents.document import Document
from server.core.prompts.plan import Call, Condition, SummaryPart, TextPart
from server.core.receipts import Stopwatch
from server.core.reranking import Passage
from server.engine.protocol import SamplingParams
from server.errors import ServiceError
from server.settings import load_settings
from server.store import StoreError
from server.text import encodable


@asynccontextmanager
async def open_local(settings: dict[str, Any]) -> AsyncIterator["LocalClient"]:
    """Opens the parts that `settings` and the environment name; a start that fails ends the program."""
    log.configure("warning")
    async with AsyncExitStack() as opened:
        try:
            core = await opened.enter_async_context(open_core(load_settings({}, settings)))
        except (ValueError, OSError, StoreError) as error:
            terminal.stop(terminal.as_sentence(error))
        yield LocalClient(core)


class LocalClient:
    """The calls of `autocompressor.AsyncClient` that commands use, with the same results and errors."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._services = core.models.default
        self._model = self._services.model.name
        self._summaries = self._services.summaries.of(core.tenant)

    async def compress(
        self,
        text: str,
        *,
        parent: str | None = None,
        ttl_seconds: float | None = None,
        metadata: Mapping[str, str] | None = None,
        keep_text: bool = False,
        measure: bool = False,
        progress: Callable[[Progress], None] | None = None,
    ) -> Compressed:
        started = time.monotonic()

        def report(now: core_progress.Progress) -> None:
            if progress is not None:
                elapsed = time.monotonic() - started
                progress(
                    Progress(
                        segments_done=now.done,
                        segments_total=now.total,
                        segments_cached=now.cached,
                        tokens=now.tokens,
                        vectors=now.vectors,
                        elapsed_seconds=elapsed,
                    )
                )

        with _translated():
            document = Document(
                tenant=self._core.tenant,
                text=_checked(text),
                parent=parent,
                ttl_seconds=ttl_seconds,
                metadata=None if metadata is None else dict(metadata),
                keep_text=keep_text,
                measures=measure,
                waits=True,
            )
            done = await self._services.intake.one(document, report)
        measured = done.retention
        return Compressed(
            **done.summary.described(self._model),
            cached_segments=done.cached_segments,
            retention=None if measured is None else asdict(measured) | {"share": measured.share},
            timings=asdict(done.timings),
            receipt=asdict(done.receipt),
        )

    async def generate(
        self, prompt: str, *, summary_ids: Sequence[str] = (), expand: int | None = None, **sampling: Any
    ) -> Generation:
        with _translated():
            generation = await self._generation(prompt, summary_ids, expand, sampling)
            text, reason = await generation.whole()
        return Generation(
            id=generation.id,
            model=self._model,
            text=text,
            finish_reason=reason,
            timings=asdict(generation.timings),
            **_cost(generation),
        )

    async def stream(
        self, prompt: str, *, summary_ids: Sequence[str] = (), expand: int | None = None, **sampling: Any
    ) -> AsyncIterator[Chunk]:
        with _translated():
            generation = await self._generation(prompt, summary_ids, expand, sampling)
            async with aclosing(generation.pieces()) as events:
                async for event in events:
                    reason = event.finish_reason
                    cost = {} if reason is None else _cost(generation)
                    yield Chunk(id=generation.id, text=event.text, finish_reason=reason, **cost)

    async def score(
        self,
        continuations: Sequence[str],
        *,
        prompt: str = "",
        summary_ids: Sequence[str] = (),
        expand: int | None = None,
    ) -> Scores:
        with _translated():
            texts = [_checked(text) for text in continuations]
            scored = await self._services.scorer.score(
                Call(self._core.tenant),
                _condition(prompt, summary_ids, expand),
                texts,
            )
        return Scores(
            model=self._model,
            scores=tuple(
                Score(
                    index=index,
                    logprob=result.total,
                    tokens=tokens,
                    token_ids=result.token_ids,
                    token_logprobs=result.logprobs,
                )
                for index, (result, tokens) in enumerate(zip(scored.results, scored.tokens, strict=True))
            ),
            usage=_usage(scored.usage),
            receipt=asdict(scored.receipt),
        )

    async def rerank(
        self, query: str, documents: Sequence[str | Mapping[str, str]], *, top_n: int | None = None
    ) -> Ranking:
        with _translated():
            passages = [
                Passage(_checked(each)) if isinstance(each, str) else Passage(summary_id=each["summary_id"])
                for each in documents
            ]
            ranked = await self._services.reranker.rank(
                _checked(query), passages, tenant=self._core.tenant, watch=Stopwatch()
            )
        results = (
            Ranked(index=place, relevance_score=ranked.scores[place], summary_id=ranked.passages[place].summary_id)
            for place in ranked.order[:top_n]
        )
        return Ranking(
            id=f"rerank-{uuid.uuid4().hex}",
            model=self._model,
            results=tuple(results),
            usage=asdict(_usage(ranked.usage)),
            receipt=asdict(ranked.receipt),
        )

    async def list_summaries(self, *, limit: int, after: str | None = None) -> SummaryPage:
        with _translated():
            page, has_more = await self._summaries.page(limit=limit, after=after)
        return SummaryPage(data=tuple(Summary(**each.described(self._model)) for each in page), has_more=has_more)

    async def get_summary(self, summary_id: str) -> StoredSummary:
        with _translated():
            summary = await self._summaries.get(summary_id, param="id")
            seconds = await self._summaries.seconds_to_live(summary_id)
        return StoredSummary(
            **summary.described(self._model),
            segment_tokens=summary.manifest.segment_tokens,
            expires_in_seconds=seconds,
        )

    async def delete_summary(self, summary_id: str) -> None:
        with _translated():
            await self._summaries.delete(summary_id)

    async def export_summary(self, summary_id: str, *, format: str = "safetensors") -> bytes:  # noqa: A002  # the client's
        with _translated():
            summary = await self._summaries.get(summary_id, param="id")
            if format == "prompt_embeds":
                return await self._services.portable.prompt_embeds(summary, self._core.tenant)
            return await self._services.portable.export(summary, self._core.tenant)

    async def import_summary(self, summary_id: str, data: bytes) -> Summary:
        with _translated():
            summary, _ = await self._services.portable.take(
                summary_id, data, tenant=self._core.tenant, ttl_seconds=None
            )
        return Summary(**summary.described(self._model))

    async def _generation(
        self, prompt: str, summary_ids: Sequence[str], expand: int | None, sampling: dict[str, Any]
    ) -> generating.Generation:
        given = {name: value for name, value in sampling.items() if value is not None and name != "max_tokens"}
        if "stop" in given:
            given["stop"] = (given["stop"],) if isinstance(given["stop"], str) else tuple(given["stop"])
        if "stop_token_ids" in given:
            given["stop_token_ids"] = tuple(given["stop_token_ids"])
        return await self._services.generator.begin(
            Call(self._core.tenant),
            _condition(prompt, summary_ids, expand),
            lambda max_tokens: SamplingParams(max_tokens=max_tokens, **{**self._services.model.sampling, **given}),
            max_tokens=sampling.get("max_tokens"),
        )


def _condition(prompt: str, summary_ids: Sequence[str], expand: int | None) -> Condition:
    return Condition(
        [*(SummaryPart(summary_id) for summary_id in summary_ids), TextPart(_checked(prompt))],
        expanded_segments=expand or 0,
    )


def _checked(text: str) -> str:
    try:
        return encodable(text)
    except ValueError as error:
        raise AutocompressorError(str(error), code="invalid_request") from error


def _cost(generation: generating.Generation) -> dict[str, Any]:
    return {"usage": _usage(generation.usage), "receipt": asdict(generation.receipt)}


def _usage(usage: receipts.Usage) -> Usage:
    return Usage(**asdict(usage), total_tokens=usage.total_tokens)


@contextmanager
def _translated() -> Iterator[None]:
    """The core's errors as the client's."""
    try:
        yield
    except ServiceError as error:
        raise AutocompressorError(error.message, code=error.code, param=error.param) from error
