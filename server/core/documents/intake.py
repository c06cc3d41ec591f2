"""Documents as clients send them, one or many in a request."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from server.core.documents.compression import Compressor
from server.core.documents.document import Compressed, Document
from server.core.documents.progress import Progress, Report
from server.core.documents.retention import Retainer
from server.core.served_model import ServedModel
from server.core.together import together
from server.errors import InvalidRequest, ServiceError


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
        if document.token_ids is not None:
            await self._token_ids(document)
        return await self._compress(document, report)

    async def many(self, documents: Sequence[Document], report: Report | None = None) -> list[Compressed]:
        """All of them, in order; what one of them is refused for is told before any is compressed.

        `report` hears of all together. An error on the way is the request's, and what was stored until then stays:
        the same request goes on there.
        """
        prepared, totals = [], []
        for index, document in enumerate(documents):
            try:
                token_ids = await self._token_ids(document)
                totals.append(await self._compressor.require_possible(document, token_ids))
            except ServiceError as error:
                error.param = f"documents.{index}.{error.param}" if error.param else f"documents.{index}"
                raise
            prepared.append(token_ids)
        work = [
            partial(self._compress, replace(document, text=None, token_ids=token_ids, waits=True), own)
            for document, token_ids, own in zip(documents, prepared, _joined(totals, report), strict=True)
        ]
        return await together(work, limit=self.max_together)

    async def _token_ids(self, document: Document) -> Sequence[int]:
        if document.token_ids is not None:
            if not document.token_ids:
                raise InvalidRequest("the document is empty: it has 0 tokens", param="token_ids")
            await asyncio.to_thread(self._model.require_known, document.token_ids, param="token_ids")
            return document.token_ids
        if not document.text:
            return []
        work = partial(
            self._model.tokenise_document,
            document.text,
            is_start=document.parent is None,
            parse_special=document.parse_special,
        )
        return await self._model.long_texts.in_thread(len(document.text), work)

    async def _compress(self, document: Document, report: Report | None) -> Compressed:
        if document.ttl_seconds is None:
            document = replace(document, ttl_seconds=self._default_ttl_seconds)
        done = await self._compressor.compress(document, report)
        if not document.measures:
            return done
        return replace(done, retention=await self._retainer.measured(await self._token_ids(document)))


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
