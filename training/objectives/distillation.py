"""The base, which reads a context in full, teaches the same base reading it as vectors.

As in context distillation (arXiv 2209.15189): the loss is the divergence of what is predicted next with vectors from
what is predicted with the text. Both are one model here, with and without its adapter, so that no second one is kept.
"""

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from model import AutoCompressor
from model.compressors import SegmentSummary
from training.objectives.asking import ask_about
from training.objectives.layouts import Layout
from training.objectives.objective import Substep
from training.objectives.padding import read_plainly, read_vectors, together
from training.objectives.reciting import recite
from training.objectives.tails import Tail
from training.recipes.recipe import Compression, Distillation

Place = tuple[int, int]  # of a segment in a batch: its row, and its first token


@dataclass(frozen=True)
class Rows:
    """Rows with the tails that their layouts want.

    Attributes:
        tokens: (B, L).
        is_scored: (B, T) bool, of the tails' tokens: whether what is predicted after one counts; of questions their
            answers alone do, and of what is recited the runs.
        is_gold: (B, T) bool, whether what follows a token is of those, and right whatever the teacher says; of no row
            that is read with another's vectors alone.
    """

    tokens: Tensor
    is_scored: Tensor
    is_gold: Tensor

    def to(self, device: torch.device) -> "Rows":
        return Rows(self.tokens.to(device), self.is_scored.to(device), self.is_gold.to(device))


class LaidOut(NamedTuple):
    """Rows, and how each is read."""

    rows: Rows
    layouts: list[Layout]

    def to(self, device: torch.device) -> "LaidOut":
        return LaidOut(self.rows.to(device), self.layouts)


class Distilling:
    """Divergence of the compressed reader from the full one, over the tails of rows; `Distillation` says how they are.

    What is drawn at random depends on the seed, the step and the number of the row in its batch alone.
    """

    num_substeps = 1

    def __init__(
        self,
        compression: Compression,
        distillation: Distillation,
        tokenizer: PreTrainedTokenizerBase,
        *,
        seed: int,
    ) -> None:
        self.compression, self.distillation = compression, distillation
        self._tokenizer, self._seed = tokenizer, seed

    def prepared(self, tokens: Tensor, *, step: int, first_row: int) -> LaidOut:
        """See `Objective`."""
        layouts = self.draw(len(tokens), step=step, first_row=first_row)
        return LaidOut(self.rewritten(tokens, layouts, step=step, first_row=first_row), layouts)

    def substeps(self, model: nn.Module, batch: LaidOut, *, step: int) -> Iterator[Substep]:  # noqa: ARG002
        """See `Objective`; the model is an AutoCompressor of segments that are read alone."""
        assert isinstance(model, AutoCompressor)
        model.base.eval()  # a teacher with dropout would teach its noise
        losses = self.losses(model, *batch)
        yield Substep(losses.mean(), losses.detach().mean()[None])

    def draw(self, num_rows: int, *, step: int, first_row: int = 0) -> list[Layout]:
        """How rows that are read at once are read. One is unrelated to another's vectors only where there is another.

        Args:
            first_row: as of `prepared`.
        """
        settings = self.compression, self.distillation
        numbers = range(first_row, first_row + num_rows)
        layouts = [Layout.draw(*settings, random.Random(f"{self._seed} {step} {row}")) for row in numbers]
        if num_rows > 1:
            return layouts
        return [layout.on_its_own() for layout in layouts]

    def rewritten(self, tokens: Tensor, layouts: Sequence[Layout], *, step: int, first_row: int = 0) -> Rows:
        """Rows (B, L) whose tails recite or ask where their layouts say so; the others as they are."""
        context = self.distillation.context_tokens
        tails = [
            self._tail(row, layout, random.Random(f"{self._seed} {step} {number} tail"))
            for number, (row, layout) in enumerate(zip(tokens.tolist(), layouts, strict=True), start=first_row)
        ]
        ids = torch.tensor([tail.ids for tail in tails], device=tokens.device)
        is_answer = torch.tensor([tail.is_answer for tail in tails], device=tokens.device)
        is_gold = functional.pad(is_answer[:, 1:], (0, 1))
        # a row that found nothing to ask goes on as it is
        is_scored = is_gold | ~is_gold.any(dim=1, keepdim=True)
        # nobody could know it of a text that is not read
        is_gold[[layout.is_unrelated for layout in layouts]] = False
        return Rows(torch.cat([tokens[:, :context], ids], dim=1), is_scored, is_gold)

    def _tail(self, row: list[int], layout: Layout, generator: random.Random) -> Tail:
        """What a row (L,) ends with, by the kind of its layout."""
        tail = row[self.distillation.context_tokens :]
        start, end = layout.told
        if layout.kind == "reciting":
            return recite(row[start:end], len(tail), self._tokenizer, generator)
        if layout.kind == "continuing":
            return Tail([], []).then(tail)
        text, other = self._tokenizer.decode(row[start:end]), self._tokenizer.decode(tail)
        asked = ask_about(text, other, len(tail), self._tokenizer, generator)
        return asked.then(tail).cut(len(tail))

    def losses(self, model: AutoCompressor, rows: Rows, layouts: Sequence[Layout]) -> Tensor:
        """What each row is trained on, the mean over what is scored of its tail, (B,), in nats a token.

        The divergence, and of answers and recited runs the cross-entropy of their words, times `gold`.
        """
        tokens, context = rows.tokens, self.distillation.context_tokens
        expected, states = self._teach(model, tokens, layouts)
        # whose vectors a row is read with
        sources = [_sources(row, layout, len(layouts)) for row, layout in enumerate(layouts)]
        written = self._written(model, tokens, states, {row: layouts[row] for read in sources for row in read})
        prompts = [
            torch.cat([_shown(model, tokens[each], written[each], layouts[each], each == row) for each in read])
            for row, read in enumerate(sources)
        ]
        texts = [tokens[row, context - layout.window :] for row, layout in enumerate(layouts)]
        lengths = [len(prompt) + len(text) for prompt, text in zip(prompts, texts, strict=True)]
        losses: dict[int, Tensor] = {}
        for read in together(lengths, self.distillation.padded_positions):
            hidden = read_vectors(model, [prompts[row] for row in read], [texts[row] for row in read])
            tail = tokens[read, context:]
            found = model.logits(torch.stack([each[-tail.shape[1] :] for each in hidden]))
            each = divergence(expected[read], found) + self._surprise(found, tail, rows.is_gold[read])
            is_scored = rows.is_scored[read]
            losses |= dict(zip(read, (each * is_scored).sum(dim=1) / is_scored.sum(dim=1), strict=True))
        return torch.stack([losses[row] for row in range(len(layouts))])

    @torch.no_grad()
    def _teach(
        self, model: AutoCompressor, tokens: Tensor, layouts: Sequence[Layout]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The teacher's logits at the tail, (B, T, V), and the states that the writer reads, of all (B, L) tokens.

        It is told nothing of what is unrelated, and where the tail is about a raw segment that segment alone: a small
        model answers better from less.
        """
        context = self.distillation.context_tokens
        last, states = model.plain_states(tokens)
        last = last[:, context:].clone()
        told: dict[int, Tensor] = {}
        for row, layout in enumerate(layouts):
            is_about_raw = layout.kind != "continuing" and layout.raw is not None
            if layout.is_unrelated or is_about_raw:
                start, end = layout.told if is_about_raw else (0, 0)
                told[row] = torch.cat([tokens[row, start:end], tokens[row, context:]])
        rows = list(told)
        for read in together([len(told[row]) for row in rows], self.distillation.padded_positions):
            for place, hidden in zip(read, read_plainly(model, [told[rows[each]] for each in read]), strict=True):
                last[rows[place]] = hidden[-last.shape[1] :]
        return model.logits(last), states

    def _written(
        self, model: AutoCompressor, tokens: Tensor, states: tuple[Tensor, ...], layouts: dict[int, Layout]
    ) -> dict[int, list[SegmentSummary]]:
        """The summaries of rows' segments.

        A row's first segment was read already: what comes after it changes nothing of its states.

        Args:
            states: of all tokens, (B, L, H) each.
        """
        lengths = {(row, start): end - start for row, layout in layouts.items() for start, end in layout.pieces()}
        summaries: dict[Place, SegmentSummary] = {}
        for is_first in (True, False):
            places = [place for place in lengths if (place[1] == 0) == is_first]
            for chosen in together([lengths[place] for place in places], self.distillation.padded_positions):
                own = [places[each] for each in chosen]
                longest = lengths[own[0]]
                segments = [tokens[row, start : start + lengths[row, start]] for row, start in own]
                ids = pad_sequence(segments, batch_first=True)
                if is_first:
                    read = tuple(each[[row for row, _ in own], :longest] for each in states)
                else:
                    with torch.no_grad():
                        _, read = model.plain_states(ids)
                made = model.write(ids, read, lengths=[lengths[place] for place in own])
                summaries |= dict(zip(own, made, strict=True))
        return {row: [summaries[row, start] for start, _ in layout.pieces()] for row, layout in layouts.items()}

    def _surprise(self, found: Tensor, tail: Tensor, is_gold: Tensor) -> Tensor:
        """`gold` times the cross-entropy, (B, T), of what follows the tokens of a tail (B, T); 0 where it is not gold.

        Args:
            found: logits (B, T, V).
        """
        losses = functional.cross_entropy(found[:, :-1].float().transpose(1, 2), tail[:, 1:], reduction="none")
        return self.distillation.gold * functional.pad(losses, (0, 1)) * is_gold


def divergence(expected: Tensor, found: Tensor) -> Tensor:
    """KL(expected || found) of logits (..., V), (...,), in nats and in float32."""
    wanted = functional.log_softmax(expected.float(), dim=-1)
    divergences = functional.kl_div(
        functional.log_softmax(found.float(), dim=-1), wanted, reduction="none", log_target=True
    )
    return divergences.sum(dim=-1)


def _sources(row: int, layout: Layout, num_rows: int) -> tuple[int, ...]:
    """The rows whose vectors one row is read with, in order."""
    other = (row + 1) % num_rows
    if layout.is_unrelated:
        return (other,)
    return {None: (row,), "before": (other, row), "after": (row, other)}[layout.among]


def _shown(
    model: AutoCompressor, tokens: Tensor, summaries: list[SegmentSummary], layout: Layout, is_own: bool
) -> Tensor:
    """What a student reads of a row's segments, (P, D): what is kept of their vectors, and embeddings of a raw one.

    Args:
        tokens: of the row, (L,). is_own: whose own they are; others' are never raw.
    """
    shown = [summary.thinned(math.ceil(layout.ratio * len(summary))).vectors for summary in summaries]
    if is_own and layout.raw is not None:
        start, end = layout.told
        shown[layout.raw] = model.embed(tokens[None, start:end])[0]
    return torch.cat([model.empty_soft_prompt()[0], *shown])
