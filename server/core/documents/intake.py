"""Documents as clients send them, one or many in a request."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from server.core.documents.compression import Compressed, Compressor
from server.core.documents.progress import Progress, Report
from server.core.documents.retention import Retainer
from server.core.patience import patiently
from server.core.served_model import ServedModel
from server.core.together import together
from server.errors import InvalidRequest, ServiceError


@dataclass(frozen=True)
class Document:
    """A text or token ids; `ttl_seconds` None is the server's default. `renews`: as `Compressor.compress` has it.

    `measures`: how much of the text its vectors keep is measured, whether it was stored before or not.
    """

    text: str | None = None
    token_ids: Sequence[int] | None = None
    parent: str | None = None
    ttl_seconds: float | None = None
    metadata: dict[str, str] | None = None
    keep_text: bool = False
    renews: bool = True
    measures: bool = False


class Intake:
    """Compresses what a request brings, many documents a few at a time."""

    def __init__(
        self,
        model: ServedModel,
        compressor: Compressor,
        retainer: Retainer,
        *,
        default_ttl_seconds: float | None,
        max_together: int,
    ) -> None:
        """`max_together`: how many documents of one request are in the engine's line; others' requests need room."""
        self._model = model
        self._compressor = compressor
        self._retainer = retainer
        self._default_ttl_seconds = default_ttl_seconds
        self.max_together = max_together

    async def one(self, document: Document, report: Report | None = None) -> Compressed:
        """As `Compressor.compress`; InvalidRequest for token ids outside the vocabulary."""
        ttl_seconds = self._ttl_seconds(document)
        if document.text is not None:
            done = await self._compressor.compress_text(
                document.text,
                parent_id=document.parent,
                ttl_seconds=ttl_seconds,
                metadata=document.metadata,
                keep_text=document.keep_text,
                renews=document.renews,
                report=report,
            )
            return await self._measured(done, await self._token_ids(document)) if document.measures else done
        token_ids = await self._token_ids(document)
        done = await self._compress(document, token_ids, report)
        return await self._measured(done, token_ids) if document.measures else done

    async def many(self, documents: Sequence[Document], report: Report | None = None) -> list[Compressed]:
        """All of them, in order; what one of them is refused for is told before any is compressed.

        `report` hears of all together. An error on the way is the request's, and what was stored until then stays:
        the same request goes on there.
        """
        prepared, totals = [], []
        for index, document in enumerate(documents):
            try:
                token_ids = await self._token_ids(document)
                totals.append(await self._compressor.require_possible(token_ids, parent_id=document.parent))
            except ServiceError as error:
                error.param = f"documents.{index}.{error.param}" if error.param else f"documents.{index}"
                raise
            prepared.append(token_ids)
        reports = _joined(totals, report)
        work = zip(documents, prepared, reports, strict=True)
        return await together([partial(self._patiently, *each) for each in work], limit=self.max_together)

    async def _token_ids(self, document: Document) -> Sequence[int]:
        if document.token_ids is not None:
            if not document.token_ids:
                raise InvalidRequest("the document is empty: it has 0 tokens", param="token_ids")
            await asyncio.to_thread(self._model.require_known, document.token_ids, param="token_ids")
            return document.token_ids
        if not document.text:
            return []
        return await asyncio.to_thread(self._model.tokenise_document, document.text, is_start=document.parent is None)

    async def _compress(self, document: Document, token_ids: Sequence[int], report: Report | None) -> Compressed:
        return await self._compressor.compress(
            token_ids,
            parent_id=document.parent,
            ttl_seconds=self._ttl_seconds(document),
            metadata=document.metadata,
            keep_text=document.keep_text,
            renews=document.renews,
            report=report,
        )

    async def _patiently(self, document: Document, token_ids: Sequence[int], report: Report | None) -> Compressed:
        done = await patiently(partial(self._compress, document, token_ids, report))
        return await self._measured(done, token_ids) if document.measures else done

    async def _measured(self, done: Compressed, token_ids: Sequence[int]) -> Compressed:
        return replace(done, retention=await self._retainer.measured(token_ids))

    def _ttl_seconds(self, document: Document) -> float | None:
        return self._default_ttl_seconds if document.ttl_seconds is None else document.ttl_seconds


def _joined(totals: Sequence[int], report: Report | None) -> list[Report | None]:
    """A report for each of several documents of so many segments, whose sum `report` hears of."""
    if report is None:
        return [None] * len(totals)
    latest = [Progress(done=0, total=total, cached=0, tokens=0, vectors=0) for total in totals]

    def tell(index: int, progress: Progress) -> None:
        latest[index] = progress
        report(
            Progress(
                done=sum(each.done for each in latest),
                total=sum(totals),
                cached=sum(each.cached for each in latest),
                tokens=sum(each.tokens for each in latest),
                vectors=sum(each.vectors for each in latest),
            )
        )

    return [partial(tell, index) for index in range(len(totals))]
