"""What a stage sends through the decoder: the segments of a sequence, with soft prompt and summary tokens."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from model.positions import Positions
from training.objectives.cross_entropy import Segments
from training.objectives.segment_lengths import equal_lengths
from training.recipes.recipe import Compression, Recipe, Stage


@dataclass(frozen=True)
class Pass:
    """One segment through the decoder, as `[soft prompt | tokens | summary tokens]`; a teacher has no gradient."""

    soft_prompt: int
    tokens: int
    summary: int = 0
    is_checkpointed: bool = False
    is_teaching: bool = False

    @property
    def positions(self) -> int:
        return self.soft_prompt + self.tokens + self.summary


def stage_of(recipe: Recipe, name: str) -> Stage:
    stage = recipe.pretraining if name == "pretraining" else recipe.adaptation
    assert stage is not None
    return stage


def positions_of(recipe: Recipe) -> Positions:
    """Those of the base when it is adapted."""
    return Positions.of(recipe.base.adapted_config())


def num_pieces(recipe: Recipe) -> int:
    """The equal pieces that full attention reads a sequence in: as few as the positions allow."""
    return -(-recipe.adaptation.sequence_tokens // positions_of(recipe).max_positions)


def require_fit(recipe: Recipe) -> None:
    """ValueError where a stage has a sequence that cannot be cut, or longer than the model has positions for."""
    for name in ["pretraining"] * (recipe.pretraining is not None) + ["adaptation"]:
        passes_of(recipe, name, has_longest_last=True)
    compression, positions = recipe.compression, positions_of(recipe)
    capacity = positions.capacity(0, compression.summary_length if compression.has_summaries else 0)
    if compression.segment_length > capacity:
        raise ValueError(f"segments to serve have {compression.segment_length} tokens; the positions fit {capacity}")


def passes_of(recipe: Recipe, name: str, *, has_longest_last: bool) -> list[list[Pass]]:
    """Of one sequence, the passes of each substep; ValueError where the model has not as many positions."""
    compression, tokens, positions = recipe.compression, stage_of(recipe, name).sequence_tokens, positions_of(recipe)
    if name == "pretraining":
        substeps = [[Pass(0, tokens)]]
    elif compression.method == "full-attention":
        substeps = [[Pass(0, length)] for length in equal_lengths(tokens, num_pieces(recipe))]
    elif compression.distillation is not None:
        substeps = [_distilling_passes(compression, tokens, has_longest_last=has_longest_last)]
    else:
        substeps = list(_compressing_passes(compression, tokens, has_longest_last=has_longest_last))
    for one in (one for substep in substeps for one in substep):
        capacity = positions.capacity(one.soft_prompt, one.summary)
        if one.tokens > capacity:
            raise ValueError(
                f"{name} has segments of up to {one.tokens} tokens, with {one.soft_prompt} soft prompt vectors before "
                f"and {one.summary} summary tokens after; {positions.max_positions} positions fit {capacity}"
            )
    return substeps


def _compressing_passes(compression: Compression, tokens: int, *, has_longest_last: bool) -> Iterator[list[Pass]]:
    """The substeps of `Segments`; random lengths count as equal, or with the longest that can be drawn as the last."""
    soft_prompt = 0
    for index, piece in enumerate(equal_lengths(tokens, compression.substeps)):
        lengths = equal_lengths(piece, compression.segments_per_substep)
        if has_longest_last and compression.is_randomised and len(lengths) > 1:
            Segments(compression, seed=0).draw(piece, step=0, substep=index)  # ValueError where it cannot be cut
            longest = min(compression.max_segment_tokens, piece - 2 * (len(lengths) - 1))
            lengths = [*equal_lengths(piece - longest, len(lengths) - 1), longest]
        if not compression.has_summaries:
            yield [Pass(0, length) for length in lengths]
            continue
        passes = []
        for number, length in enumerate(lengths, start=1):
            is_last = number == len(lengths)
            summary = 0 if is_last and index + 1 == compression.substeps else compression.summary_length
            is_checkpointed = compression.segment_gradient_checkpointing and not is_last
            passes.append(Pass(soft_prompt, length, summary, is_checkpointed))
            soft_prompt = summary if compression.method == "rmt" else soft_prompt + summary
        yield passes


def _distilling_passes(compression: Compression, tokens: int, *, has_longest_last: bool) -> list[Pass]:
    """Those of `Distilling`: the teacher's, of all segments but the first, and the student's; segments count as equal.

    The longest student's pass has all raw of the context but the least segment, before the tail, and another row's
    vectors beside its own.

    Raises:
        ValueError: a row without a tail, more than one substep, or a context that may not be one segment.
    """
    distillation = compression.distillation
    assert distillation is not None
    context = distillation.context_tokens
    if tokens <= context or compression.substeps != 1:
        raise ValueError(
            f"rows of {tokens} tokens in {compression.substeps} substeps: distillation has 1, and needs more tokens "
            f"than the {context} of the context"
        )
    if compression.max_segment_tokens < context:
        raise ValueError(
            f"segments have up to {compression.max_segment_tokens} tokens; a context of {context} is one, sometimes"
        )
    later = equal_lengths(context, compression.segments_per_substep)[1:]
    raw = context - distillation.cut_tokens if has_longest_last and len(later) else 0

    def vectors(num_tokens: int) -> int:
        return math.ceil(num_tokens * compression.summary_length / compression.segment_length)

    others = vectors(context) if has_longest_last else 0
    teaching = [Pass(0, length, is_teaching=True) for length in (tokens, *later)]
    return [*teaching, Pass(vectors(context - raw) + others, raw + tokens - context)]
