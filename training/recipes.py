"""Recipes: functions that return everything a run depends on, frozen."""

from collections.abc import Callable
from dataclasses import dataclass

from transformers import LlamaConfig


@dataclass(frozen=True)
class Stage:
    """One pass of optimisation.

    Attributes:
        tokens: how many are read in all.
        sequence_tokens, batch_sequences: the shape of a step.
        learning_rate: of AdamW, at its peak. matrix_learning_rate: of Muon, for hidden matrices; None leaves them
            to AdamW as well.
        warmup_steps: of linear warm-up; a cosine to a tenth of the peak follows.
    """

    tokens: int
    sequence_tokens: int
    batch_sequences: int
    learning_rate: float
    matrix_learning_rate: float | None
    warmup_steps: int

    @property
    def steps(self) -> int:
        return max(1, self.tokens // (self.sequence_tokens * self.batch_sequences))


@dataclass(frozen=True)
class Compression:
    """How adaptation cuts sequences (arXiv 2305.14788, sections 3.2 and 3.3).

    Attributes:
        substeps: slices a sequence is cut into; the soft prompt is detached between them.
        segments_per_substep: compression steps that gradients cross.
        max_segment_tokens: the longest random segment. segment_length: tokens a segment when serving and evaluating.
    """

    summary_length: int
    accumulate_summary: bool
    substeps: int
    segments_per_substep: int
    max_segment_tokens: int
    segment_length: int


@dataclass(frozen=True)
class Recipe:
    """A base model's shape, its tokenizer's size, and the two stages that make an AutoCompressor of it."""

    name: str
    vocabulary_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    max_positions: int
    pretraining: Stage
    adaptation: Stage
    compression: Compression

    def base_config(self, *, end_of_text: int) -> LlamaConfig:
        return LlamaConfig(
            vocab_size=self.vocabulary_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.num_heads,
            num_key_value_heads=self.num_kv_heads,
            max_position_embeddings=self.max_positions,
            tie_word_embeddings=True,
            bos_token_id=end_of_text,
            eos_token_id=end_of_text,
            pad_token_id=end_of_text,
        )


def tiny() -> Recipe:
    """6.8M parameters for two CPU cores: about an hour and a half, and small enough to ship."""
    return Recipe(
        name="tiny",
        vocabulary_size=4096,
        hidden_size=320,
        intermediate_size=704,
        num_layers=6,
        num_heads=5,
        num_kv_heads=1,
        max_positions=1024,
        pretraining=Stage(
            tokens=10_000_000,
            sequence_tokens=1024,
            batch_sequences=8,
            learning_rate=3e-3,
            matrix_learning_rate=2e-2,
            warmup_steps=50,
        ),
        adaptation=Stage(
            tokens=5_000_000,
            sequence_tokens=2176,
            batch_sequences=4,
            learning_rate=1e-3,
            matrix_learning_rate=4e-3,
            warmup_steps=50,
        ),
        compression=Compression(
            summary_length=16,
            accumulate_summary=True,
            substeps=4,
            segments_per_substep=2,
            max_segment_tokens=384,
            segment_length=256,
        ),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {"tiny": tiny}
