"""One generation as the client gets it."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict
from typing import Any

from server.core.generating import Generation
from server.http.answers.receipts import shown_receipt, shown_usage
from server.http.schemas import generate as schemas


class Generated:
    """Whole or in chunks."""

    def __init__(self, generation: Generation, model: str) -> None:
        self._generation = generation
        self._model = model

    async def whole(self) -> schemas.GenerateResponse:
        text, reason = await self._generation.whole()
        return schemas.GenerateResponse(
            id=self._generation.id, model=self._model, text=text, finish_reason=reason, **self._cost()
        )

    async def chunks(self) -> AsyncGenerator[str]:
        """A chunk as JSON for each token that made text certain, and one for the end."""
        async with aclosing(self._generation.pieces()) as pieces:
            async for event in pieces:
                reason = event.finish_reason
                cost = {} if reason is None else self._cost()
                chunk = schemas.GenerateChunk(
                    id=self._generation.id, model=self._model, text=event.text, finish_reason=reason, **cost
                )
                yield chunk.model_dump_json(exclude_none=True)

    def _cost(self) -> dict[str, Any]:
        return {
            "usage": shown_usage(self._generation.usage),
            "timings": schemas.GenerateTimings(**asdict(self._generation.timings)),
            "receipt": shown_receipt(self._generation.receipt),
        }
