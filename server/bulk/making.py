"""One block to one part, by a core in this process: what an actor does, without Ray."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch import Tensor

from server.bulk.blocks import Block
from server.bulk.parts import Parts, Row
from server.bulk.records import Columns, Record, Rejected, read
from server.core.core import Core
from server.core.documents.document import Document
from server.core.documents.summaries import Summary
from server.core.together import together
from server.errors import InvalidRequest, SummaryNotFound, TooLong

FORMAT = 2  # of parts: another one makes them all anew
ROWS_TOGETHER = 64  # a row group's, and what is in memory of a part


@dataclass(frozen=True)
class Job:
    """What is wanted of every block.

    Attributes:
        output: the folder of the parts, a path or a URL.
        documents_together: how many of an actor's documents are in its engine at a time.
        store: where the summaries stay, too; None for nowhere.
    """

    output: str
    columns: Columns
    keep_text: bool
    documents_together: int
    store: str | None


@dataclass(frozen=True)
class Made:
    """What became of a block. `was_there`: its part was whole, of the same model and settings: nothing was computed."""

    num_input_rows: int
    num_rows: int
    num_rejected: int
    was_there: bool


class Maker:
    """Makes parts of blocks, one after the other."""

    def __init__(self, core: Core, job: Job) -> None:
        self._job = job
        self._services = core.models.default
        self._tenant = core.tenant
        self._summaries = self._services.summaries.of(core.tenant)
        self._parts = Parts(job.output)

    async def make(self, block: Block) -> Made:
        """Write a block's part, unless it is there and whole.

        Raises:
            OSError: the input cannot be read, or the output not be written.
            ServiceError: the engine or the store failed. What is wrong with a document does not: it is rejected.
        """
        key = self._key(block)
        note = self._parts.note(block)
        if note is not None and note.key == key:
            return Made(block.num_rows, note.num_rows, len(note.rejected), was_there=True)
        made: set[str] = set()
        rejected: list[Rejected] = []
        waiting: list[Record | Rejected] = []
        with self._parts.writing(block) as part:
            try:
                for each in read(block, self._job.columns):
                    waiting.append(each)
                    if len(waiting) == ROWS_TOGETHER:
                        part.add(await self._rows(waiting, rejected, made))
                        waiting.clear()
                part.add(await self._rows(waiting, rejected, made))
            finally:
                if self._job.store is None:
                    await self._forget(made)
            note = part.end(key, self._services.model.fingerprint, rejected)
        return Made(block.num_rows, note.num_rows, len(note.rejected), was_there=False)

    def _key(self, block: Block) -> str:
        """Of all that a part's bytes come from."""
        model = self._services.model
        root = self._tenant.root(model.fingerprint)
        job = asdict(self._job) | {"output": None, "documents_together": None}
        made_of = [FORMAT, asdict(block), job, root, model.dtype, model.rounds_vectors]
        return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()

    async def _rows(self, given: Sequence[Record | Rejected], rejected: list[Rejected], made: set[str]) -> list[Row]:
        work = [partial(self._row, each) for each in given]
        rows = []
        for each in await together(work, limit=self._job.documents_together):
            if isinstance(each, Rejected):
                rejected.append(each)
            else:
                made.add(each.id)
                rows.append(each)
        return rows

    async def _row(self, record: Record | Rejected) -> Row | Rejected:
        if isinstance(record, Rejected):
            return record
        document = Document(
            tenant=self._tenant,
            text=record.text,
            metadata=record.metadata or None,
            keep_text=self._job.keep_text,
            waits=True,
        )
        try:
            summary = (await self._services.intake.one(document)).summary
        except (InvalidRequest, TooLong) as error:
            return Rejected(record.row, error.message)
        numbers = self._services.model.conditioning(range(len(summary.manifest.segments)))
        parts = await self._summaries.read_segments(summary, numbers)
        vectors = torch.cat([each.vectors for each in parts])
        ranks = [each.ranks for each in parts if each.ranks is not None]
        return Row(
            id=summary.id,
            source_id=record.id,
            vectors=as_bytes(vectors),
            num_vectors=vectors.shape[0],
            width=vectors.shape[1],
            tokens=summary.tokens,
            segments=len(summary.manifest.segments),
            ranks=torch.cat(ranks).tolist() if ranks else None,
            text=record.text if self._job.keep_text else None,
            token_ids=await self._token_ids(summary) if self._job.keep_text else None,
            metadata=record.metadata,
        )

    async def _token_ids(self, summary: Summary) -> list[int]:
        texts = await self._summaries.segments.texts(summary.manifest.segments)
        return [token_id for text in texts for token_id in text or ()]

    async def _forget(self, summary_ids: set[str]) -> None:
        """So that a store that nobody reads does not grow."""
        for summary_id in summary_ids:
            try:
                await self._summaries.delete(summary_id)
            except SummaryNotFound:
                continue


def as_bytes(vectors: Tensor) -> bytes:
    """(P, D) of any dtype as bfloat16, row by row, little-endian."""
    return vectors.to(torch.bfloat16).contiguous().view(torch.int16).numpy().astype("<i2").tobytes()
