"""What a stage sends through the decoder: the segments of a sequence, with soft prompt and summary tokens."""

from collections.abc import Iterator
from dataclasses import dataclass

from model import AutoCompressor
from training.objectives import Segments
from training.recipe import Compression, Recipe, Stage
from training.segmenting import equal_lengths


@dataclass(frozen=True)
class Pass:
    """One segment through the decoder, as `[soft prompt | tokens | summary tokens]`."""

    soft_prompt: int
    tokens: int
    summary: int = 0
    is_checkpointed: bool = False

    @property
    def positions(self) -> int:
        return self.soft_prompt + self.tokens + self.summary


def stage_of(recipe: Recipe, name: str) -> Stage:
    stage = recipe.pretraining if name == "pretraining" else recipe.adaptation
    assert stage is not None
    return stage


def passes_of(model: AutoCompressor, recipe: Recipe, name: str, *, has_longest_last: bool) -> list[list[Pass]]:
    """Of one sequence, the passes of each substep; ValueError where the model has not as many positions."""
    compression, tokens = recipe.compression, stage_of(recipe, name).sequence_tokens
    if name == "pretraining":
        substeps = [[Pass(0, tokens)]]
    elif compression.method == "full-attention":
        pieces = equal_lengths(tokens, -(-tokens // model.max_positions))
        substeps = [[Pass(0, length)] for length in pieces]
    else:
        substeps = list(_compressing_passes(compression, tokens, has_longest_last=has_longest_last))
    for one in (one for substep in substeps for one in substep):
        capacity = model.positions.capacity(one.soft_prompt, one.summary)
        if one.tokens > capacity:
            raise ValueError(
                f"{name} has segments of up to {one.tokens} tokens, with {one.soft_prompt} soft prompt vectors before "
                f"and {one.summary} summary tokens after; the model's {model.max_positions} positions fit {capacity}"
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
