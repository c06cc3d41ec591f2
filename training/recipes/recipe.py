"""What a recipe says: everything a run depends on, frozen."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from transformers import AutoConfig, PreTrainedConfig

Method = Literal["autocompressor", "rmt", "no-context", "full-attention"]
Trained = Literal["all", "lora", "summary"]
Precision = Literal["bf16", "no"]
Saved = Literal["adapter", "full"]


@dataclass(frozen=True)
class Base:
    """The model to adapt.

    Attributes:
        name: a hub id or a directory; None for one that is pretrained here, of this architecture and shape.
        architecture: transformers' `model_type`. shape: fields of its configuration, which `--plan` reads too.
        max_positions: to extend the base's positions to before adaptation; None leaves them.
        dtype: of its weights while they train ("float32"), or stand still under LoRA ("bfloat16").
    """

    architecture: str
    shape: Mapping[str, Any]
    name: str | None = None
    max_positions: int | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"

    def config(self, **special_tokens: int) -> PreTrainedConfig:
        return AutoConfig.for_model(self.architecture, **self.shape, **special_tokens)

    def adapted_config(self) -> PreTrainedConfig:
        """With the positions that it has when it is adapted."""
        config = self.config()
        if self.max_positions is not None:
            config.max_position_embeddings = self.max_positions
        return config


@dataclass(frozen=True)
class Stage:
    """One pass of optimisation.

    Attributes:
        tokens: how many are read in all.
        sequence_tokens, batch_sequences: the shape of a step, over all devices.
        micro_batch_sequences: of them, in one forward pass of one device; the rest is accumulated.
        learning_rate: of AdamW, at its peak. summary_learning_rate: of AdamW for the summary embeddings or the bridge,
            the bridge's times the scale of the base's embeddings; None gives them `learning_rate`.
            matrix_learning_rate: of Muon, for hidden matrices; None leaves them to AdamW as well.
        warmup_steps: of linear warm-up, at most a fifth of all steps. decay, final_share: how the learning rate falls
            after it, and to what share.
        adam_betas, weight_decay: of AdamW; the published script keeps its trainer's defaults.
    """

    tokens: int
    sequence_tokens: int
    batch_sequences: int
    learning_rate: float
    warmup_steps: int
    micro_batch_sequences: int = 1
    summary_learning_rate: float | None = None
    matrix_learning_rate: float | None = None
    decay: Literal["cosine", "linear"] = "cosine"
    final_share: float = 0.1
    adam_betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0

    @property
    def steps(self) -> int:
        return max(1, self.tokens // (self.sequence_tokens * self.batch_sequences))

    def share_of(self, num_processes: int) -> tuple[int, int]:
        """How many sequences of a step one process reads, and how many of them at a time.

        Raises:
            ValueError: the batch does not divide among processes and micro-batches.
        """
        own, rest = divmod(self.batch_sequences, num_processes)
        micro_batch = min(self.micro_batch_sequences, own)
        if rest or not own or own % micro_batch:
            raise ValueError(
                f"a batch of {self.batch_sequences} sequences does not divide among {num_processes} processes in "
                f"micro-batches of {self.micro_batch_sequences} (--batch-sequences, --micro-batch)"
            )
        return own, micro_batch

    @property
    def warmup(self) -> int:
        """The steps of warm-up that a short run has."""
        return min(self.warmup_steps, self.steps // 5)


@dataclass(frozen=True)
class Distillation:
    """What the rows are of that the base teaches by reading them in full (`training.objectives.distillation`).

    Of a row the first `context_tokens` are compressed; the rest, its tail, is scored. Shares are of all rows, each
    drawn for itself, but that a tail is of one kind.

    Attributes:
        cut_tokens: lengths of segments and windows are multiples of it: equal ones are read together.
        padded_positions: of unequal rows so many are read together, padding counted; 0 reads equal ones alone. Where
            a pass is waited for by the call, as on a GPU, padding costs less than another one.
        whole: share of contexts that are one segment; others are cut into 2 to `segments_per_substep`.
        reciting, asking: shares of tails that repeat parts of the context, or are questions about it and answers.
        gold: how much the cross-entropy of answers' and repeated parts' own words counts besides the divergence.
        windowed: share in which the end of the context, up to half of it, stays raw before the tail.
        expanded: share, of those of several segments, in which one stays raw in its place; tails are about it.
        unrelated: share read with another row's vectors, as the base reads the tail alone.
        among: share read with another row's vectors before or after its own, of which the teacher knows nothing.
        thinned: share of which a part of the vectors is kept, drawn from `ratios`.
    """

    context_tokens: int
    cut_tokens: int
    padded_positions: int = 0
    whole: float = 0.5
    reciting: float = 0.2
    asking: float = 0.35
    gold: float = 1.0
    windowed: float = 0.15
    expanded: float = 0.3
    unrelated: float = 0.05
    among: float = 0.3
    thinned: float = 0.45
    ratios: tuple[float, ...] = (0.25, 0.5, 0.5, 0.75)

    def __post_init__(self) -> None:
        if self.context_tokens < 1 or self.context_tokens % self.cut_tokens:
            raise ValueError(f"a context of {self.context_tokens} tokens is not cut in multiples of {self.cut_tokens}")
        if self.reciting + self.asking > 1:
            raise ValueError(f"shares of tails, {self.reciting} and {self.asking}, are more than 1 together")


@dataclass(frozen=True)
class Compression:
    """How adaptation cuts sequences, and what passes from segment to segment (arXiv 2305.14788, sections 3.1 to 3.3).

    Attributes:
        method: `autocompressor` accumulates summary vectors; `rmt` hands on the newest segment's alone; `no-context`
            fine-tunes on segments that nothing precedes; `full-attention` on whole sequences.
        summary_length: summary vectors a segment (the paper's kappa).
        substeps: slices a sequence is cut into; the soft prompt is detached between them. 1 is no stop-gradient.
        segments_per_substep: compression steps that gradients cross.
        max_segment_tokens: the longest random segment. is_randomised: random lengths, else equal ones.
        segment_length: tokens a segment when serving and evaluating.
        segment_gradient_checkpointing: activations of a segment are computed again in the backward pass.
        compressor: what writes vectors, by its name in `model.compressors`.
        distillation: of vectors that are distilled; None of those that are trained by cross-entropy. There is one
            substep then, of up to `segments_per_substep` segments.
    """

    summary_length: int
    substeps: int
    segments_per_substep: int
    max_segment_tokens: int
    segment_length: int
    method: Method = "autocompressor"
    is_randomised: bool = True
    segment_gradient_checkpointing: bool = False
    compressor: str = "summary_tokens"
    distillation: Distillation | None = None

    @property
    def num_segments(self) -> int:
        return self.substeps * self.segments_per_substep

    @property
    def has_summaries(self) -> bool:
        return self.method in ("autocompressor", "rmt")


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters (arXiv 2106.09685) on the named projections, in peft's terms."""

    rank: int
    alpha: int
    dropout: float
    modules: tuple[str, ...]


@dataclass(frozen=True)
class Recipe:
    """A base, how it is pretrained where it is ours, and how it is adapted.

    Attributes:
        trained: every weight, LoRA's and the summary embeddings, or the summary embeddings alone.
        precision: of matrix work; weights that train, norms and losses stay in float32.
        max_shard_size: of the checkpoint's weight files; None for transformers' default.
        saved: what the checkpoint holds: what was trained alone, or the base as well.
    """

    name: str
    base: Base
    adaptation: Stage
    compression: Compression
    pretraining: Stage | None = None
    trained: Trained = "all"
    lora: Lora | None = None
    precision: Precision = "bf16"
    max_shard_size: str | None = None
    saved: Saved = "full"
