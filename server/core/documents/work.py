"""What a document still lacks: segments that are not stored, computed and stored one by one."""

import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import takewhile

import torch
from torch import Tensor

from server.core.documents.progress import Progress, Report
from server.core.documents.segments import Segments
from server.core.served_model import ServedModel
from server.engine.protocol import Encoder, Meter
from server.errors import SummaryNotFound

UNFINISHED_SECONDS = 3600.0  # how long segments wait for the rest of their document, once nobody works on it


@dataclass
class Work:
    """One document on its way.

    Attributes:
        parent_keys, keys: of its segments, those of this call last.
        waits: for room in the engine's line.
        is_begun: by this call, which joined no other's.
        computed: places among this call's segments that it computed, in `num_computed` passes.
    """

    segments: Sequence[Sequence[int]]
    keys: Sequence[str]
    parent_keys: Sequence[str]
    keeps_text: bool
    waits: bool = False
    meter: Meter = field(default_factory=Meter, init=False)
    is_begun: bool = field(default=False, init=False)
    num_computed: int = field(default=0, init=False)
    computed: set[int] = field(default_factory=set, init=False)
    engine_seconds: float = field(default=0.0, init=False)


@dataclass(frozen=True)
class Missing:
    """What is to be computed.

    Attributes:
        places: of each key, where among the work's segments it stands.
        soft_prompt: the vectors before the first.
        keys: of the soft prompt and of these, as `Encoder.compress` has them.
    """

    places: Mapping[str, Sequence[int]]
    soft_prompt: Tensor | None = None
    keys: Sequence[str] = ()


class Worker:
    """Finishes documents, each segment stored as it is made: an interrupted call goes on there."""

    def __init__(self, model: ServedModel, encoder: Encoder) -> None:
        self._model = model
        self._encoder = encoder

    async def finish(self, work: Work, stored: Segments, report: Report) -> None:
        """Compute and store what is not stored; `report` hears of what is, and of each segment.

        Args:
            stored: the segments of the tenant whose document it is.

        Raises:
            SummaryNotFound: a segment of the parent is gone. And what the engine and the store raise.
        """
        work.is_begun = True
        look = self._missing_anywhere if self._model.config.reads_alone else self._missing_at_the_end
        missing = await look(work, stored)
        progress = self._begun(work, missing)
        report(progress)
        if missing.places:
            async with stored.kept((*work.parent_keys, *work.keys), ttl_seconds=UNFINISHED_SECONDS):
                await self._compute(work, missing, stored, progress, report)
        if work.keeps_text:
            await stored.put_texts(work.keys, work.segments, ttl_seconds=UNFINISHED_SECONDS)

    async def _compute(
        self, work: Work, missing: Missing, stored: Segments, progress: Progress, report: Report
    ) -> None:
        waiting_since = time.monotonic()
        segments = self._encoder.compress(
            [work.segments[places[0]] for places in missing.places.values()],
            soft_prompt=missing.soft_prompt,
            keys=missing.keys,
            meter=work.meter,
            waits=work.waits,
        )
        keys = iter(missing.places.items())
        async with aclosing(segments) as made:
            async for summary in made:
                work.engine_seconds += time.monotonic() - waiting_since
                key, places = next(keys)
                await stored.put(key, summary, ttl_seconds=UNFINISHED_SECONDS)
                work.num_computed += 1
                work.computed.update(places)
                progress = self._grown(progress, len(work.segments[places[0]]), len(places))
                report(progress)
                waiting_since = time.monotonic()

    async def _missing_at_the_end(self, work: Work, stored: Segments) -> Missing:
        """What follows the stored segments: a segment's vectors are made with those of the ones before it."""
        keys = (*work.parent_keys, *work.keys)
        found = await stored.find(keys)
        vectors = [each.vectors for each in takewhile(lambda each: each is not None, found) if each is not None]
        first = len(vectors) - len(work.parent_keys)
        if first < 0:
            raise SummaryNotFound("the parent was deleted or has expired", param="parent")
        places = {key: (place,) for place, key in enumerate(work.keys) if place >= first}
        # in RMT mode a soft prompt is one segment's, and nothing of it is read again
        return Missing(places, self._soft_prompt(vectors), keys if self._model.config.accumulate_summary else ())

    async def _missing_anywhere(self, work: Work, stored: Segments) -> Missing:
        """Every segment that is not stored, once, whatever stands between them: each is read alone."""
        keys = list(dict.fromkeys((*work.parent_keys, *work.keys)))
        is_stored = dict(zip(keys, await stored.are_stored(keys), strict=True))
        places: dict[str, list[int]] = {}
        for place, key in enumerate(work.keys):
            if not is_stored[key]:
                places.setdefault(key, []).append(place)
        if any(not is_stored[key] and key not in places for key in work.parent_keys):
            raise SummaryNotFound("the parent was deleted or has expired", param="parent")
        return Missing(places)

    def _soft_prompt(self, vectors: Sequence[Tensor]) -> Tensor | None:
        if not vectors:
            return None
        return torch.cat(list(vectors)) if self._model.config.accumulate_summary else vectors[-1]

    def _begun(self, work: Work, missing: Missing) -> Progress:
        """With what is stored."""
        absent = {place for places in missing.places.values() for place in places}
        stored = [len(segment) for place, segment in enumerate(work.segments) if place not in absent]
        vectors = self._model.num_vectors_of(stored)
        return Progress(len(stored), len(work.segments), len(stored), sum(stored), vectors)

    def _grown(self, before: Progress, num_tokens: int, num_places: int) -> Progress:
        """With a segment of so many tokens more, which stands at so many places."""
        vectors = self._model.config.num_vectors(num_tokens)
        return Progress(
            before.done + num_places,
            before.total,
            before.cached,
            before.tokens + num_places * num_tokens,
            before.vectors + num_places * vectors if self._model.config.accumulate_summary else vectors,
        )
