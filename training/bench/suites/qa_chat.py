"""Questions asked by chat against a stored document of many paragraphs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from training.bench.outcome import Cell, Number, Table
from training.bench.parts import Part, best_parts, mixed
from training.bench.questions import Paragraph, Question, asked, is_contained
from training.bench.reader import Reader
from training.evaluation.intervals import ratio as mean_of

DOCUMENT = 30  # paragraphs
BEST = 2  # segments put back as text
ANSWER_TOKENS = 32
VECTORS, EXPANDED = "document as vectors", f"document as vectors, {BEST} segments in full"
ALONE, BASE = f"base, {BEST} segments in its prompt", "base, the right paragraph in its prompt"


@dataclass(frozen=True)
class Asked:
    """A question, the number of its paragraph and of its document."""

    question: Question
    paragraph: int
    document: int


@dataclass(frozen=True)
class Chats:
    """Whether each question was answered rightly, by the way it was asked; ways that did not fit are absent."""

    questions: Sequence[Asked]
    right: Mapping[str, Sequence[bool]]
    note: str

    @classmethod
    def held(cls, reader: Reader, paragraphs: Sequence[Paragraph], count: int, *, seed: int) -> "Chats":
        """Ask `count` questions, drawn from as many paragraphs as possible, of documents of 30 paragraphs."""
        questions = drawn(paragraphs, count, seed)
        documents = [paragraphs[start : start + DOCUMENT] for start in range(0, len(paragraphs), DOCUMENT)]
        right: dict[str, list[bool]] = {}
        with tqdm(total=len(questions), unit=" questions", desc="chat") as progress:
            for number, document in enumerate(documents):
                own = [each for each in questions if each.document == number]
                parts = _stored(reader, document) if own else []
                for each in own:
                    for way, answer in _answers(reader, parts, each, paragraphs[each.paragraph]).items():
                        right.setdefault(way, []).append(is_contained(answer, each.question.answer))
                    progress.update()
        right = {way: found for way, found in right.items() if len(found) == len(questions)}
        note = (
            f"By chat: {len(questions)} questions on {len(documents)} stored documents of up to {DOCUMENT} paragraphs, "
            f"in segments of {reader.model.segment_length} tokens, {reader.model.summary_length} vectors each; the "
            f"{BEST} segments that BM25 finds for the question are put back as text. Against them the model without "
            f"vectors, which of an adapted model is the untouched base: with the one right paragraph in its prompt, "
            f"or with the same {BEST} segments."
        )
        return cls(questions, right, note)

    def table(self) -> Table:
        paragraphs = np.unique([each.paragraph for each in self.questions], return_inverse=True)[1]
        counts = np.bincount(paragraphs).astype(np.int64)
        rows: list[list[Cell]] = []
        for way in (EXPANDED, VECTORS, ALONE, BASE):
            found = self.right.get(way)
            if found is None:
                rows.append([way, None, None, None])
                continue
            sums = np.bincount(paragraphs, weights=np.array(found, np.float64)).astype(np.float64)
            share = mean_of(sums, counts)
            both = f"{sum(map(min, found, self.right[BASE]))}" if BASE in self.right else None
            rows.append([way, f"{sum(found)} of {len(found)}", Number(share, "{:.0%}"), both])
        header = ["asked of", "right answers", "share", "of these also right: the base with the right paragraph"]
        return Table("Questions by chat against a stored document", header, rows)

    def as_json(self) -> dict[str, Any]:
        return {
            "questions": [[each.document, each.paragraph, each.question.text] for each in self.questions],
            "right": {way: list(found) for way, found in self.right.items()},
        }


def drawn(paragraphs: Sequence[Paragraph], count: int, seed: int) -> list[Asked]:
    """A question of each paragraph, in an order of their own, then a second one of each, and so on; by document."""
    random = np.random.default_rng(seed)
    waiting = [
        [paragraph.questions[i] for i in random.permutation(len(paragraph.questions))] for paragraph in paragraphs
    ]
    chosen: list[Asked] = []
    while len(chosen) < count and any(waiting):
        for number in random.permutation(len(paragraphs)).tolist():
            if waiting[number] and len(chosen) < count:
                chosen.append(Asked(waiting[number].pop(), number, number // DOCUMENT))
    return sorted(chosen, key=lambda each: each.document)


def _stored(reader: Reader, document: Sequence[Paragraph]) -> list[Part]:
    """The document's segments with their summaries; none where the model cannot make or keep them."""
    text = "\n\n".join(paragraph.text for paragraph in document) + "\n\n"
    ids = torch.tensor(reader.encode(text))
    segments = ids.split(reader.model.segment_length)
    if not reader.can_summarise(len(segments)) or not reader.model.accumulate_summary:
        return []
    summaries = reader.summaries(ids[None])[0]
    return [Part(segment, summary) for segment, summary in zip(segments, summaries, strict=True)]


def _answers(reader: Reader, parts: Sequence[Part], each: Asked, paragraph: Paragraph) -> dict[str, str]:
    """The answers by the way of asking, of the ways that fit."""
    question = each.question.text
    prompt = asked(reader, question)
    ways: dict[str, tuple[Sequence[int], torch.Tensor | None]] = {BASE: (asked(reader, question, paragraph.text), None)}
    if parts:
        (chosen,) = best_parts(reader, parts, [question], BEST)
        found = "".join(reader.decode(parts[number].ids) for number in chosen)
        ways[ALONE] = (asked(reader, question, found), None)
        ways[VECTORS] = (prompt, mixed(reader, parts))
        if reader.can_mix():
            ways[EXPANDED] = (prompt, mixed(reader, parts, chosen))
    return {
        way: reader.answer(ids, soft_prompt, ANSWER_TOKENS)
        for way, (ids, soft_prompt) in ways.items()
        if reader.fits(0 if soft_prompt is None else len(soft_prompt), len(ids) + ANSWER_TOKENS)
    }
