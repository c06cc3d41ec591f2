"""What a command line changes of a recipe: baselines, ablations, another base, another size."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

import typer
from transformers import AutoConfig

from training.bases.references import config_source
from training.recipes.recipe import Base, Compression, Lora, Method, Precision, Recipe, Saved, Stage, Trained
from training.recipes.refusals import require_gradient, require_savable

DEFAULT_LORA = Lora(rank=16, alpha=16, dropout=0.05, modules=("q_proj", "k_proj", "v_proj", "o_proj", "out_proj"))
NOT_SHAPE = ("model_type", "transformers_version", "architectures", "_name_or_path")
PANELS = WHAT, ABLATIONS, SIZE, MACHINE = "What to train", "Baselines and ablations", "Size", "Machine and run"


@dataclass(frozen=True)
class Overrides:
    """One field a flag of `python -m training`; None and False leave the recipe as it is."""

    base: Annotated[
        str | None,
        typer.Option(
            help="Adapt this base, a directory or a hub id, or go on with a checkpoint, instead of the recipe's.",
            rich_help_panel=WHAT,
        ),
    ] = None
    trained: Annotated[
        Trained | None,
        typer.Option(
            "--train",
            help="Train all weights, LoRA's adapters and the summary embeddings, or those embeddings alone.",
            rich_help_panel=WHAT,
        ),
    ] = None
    saved: Annotated[
        Saved | None,
        typer.Option(
            "--save",
            help="The checkpoint holds what was trained alone and the name of its base, or the base as well.",
            rich_help_panel=WHAT,
        ),
    ] = None
    lora_rank: Annotated[int | None, typer.Option(help="LoRA's rank, and its alpha.", min=1, rich_help_panel=WHAT)] = (
        None
    )
    method: Annotated[
        Method | None,
        typer.Option(
            help="The baselines: rmt hands on the newest summary alone, no-context fine-tunes on lone segments, "
            "full-attention on whole sequences.",
            rich_help_panel=ABLATIONS,
        ),
    ] = None
    summary_length: Annotated[
        int | None, typer.Option(help="Summary vectors a segment (kappa).", min=1, rich_help_panel=ABLATIONS)
    ] = None
    has_fixed_segments: Annotated[
        bool, typer.Option("--fixed-segments", help="Segments of equal length, not random.", rich_help_panel=ABLATIONS)
    ] = False
    has_no_stop_gradient: Annotated[
        bool,
        typer.Option(
            "--no-stop-gradient",
            help="Let gradients cross all compression steps; memory then grows with them.",
            rich_help_panel=ABLATIONS,
        ),
    ] = False
    max_positions: Annotated[
        int | None,
        typer.Option(
            help="Extend the base's positions first, for extended full attention.", min=1, rich_help_panel=ABLATIONS
        ),
    ] = None
    tokens: Annotated[int | None, typer.Option(help="To adapt on.", min=1, rich_help_panel=SIZE)] = None
    pretraining_tokens: Annotated[
        int | None, typer.Option(help="To pretrain on, where the recipe does.", min=1, rich_help_panel=SIZE)
    ] = None
    sequence_tokens: Annotated[
        int | None, typer.Option(help="Tokens of a sequence, in the adaptation.", min=2, rich_help_panel=SIZE)
    ] = None
    substeps: Annotated[
        int | None,
        typer.Option(help="Slices of a sequence; gradients stop between them.", min=1, rich_help_panel=SIZE),
    ] = None
    segments_per_substep: Annotated[
        int | None,
        typer.Option(help="Segments of a slice: the steps that gradients cross.", min=1, rich_help_panel=SIZE),
    ] = None
    max_segment_tokens: Annotated[
        int | None, typer.Option(help="The longest random segment.", min=2, rich_help_panel=SIZE)
    ] = None
    segment_length: Annotated[
        int | None,
        typer.Option(help="Tokens of a segment when serving and evaluating.", min=2, rich_help_panel=SIZE),
    ] = None
    batch_sequences: Annotated[
        int | None,
        typer.Option(help="Sequences a step of the adaptation, over all devices.", min=1, rich_help_panel=SIZE),
    ] = None
    micro_batch_sequences: Annotated[
        int | None,
        typer.Option(
            "--micro-batch",
            help="Of them, in one pass of one device: less needs less memory, with the same result. Pretraining too.",
            min=1,
            rich_help_panel=SIZE,
        ),
    ] = None
    learning_rate: Annotated[
        float | None, typer.Option(help="AdamW's peak, in the adaptation.", min=1e-9, rich_help_panel=SIZE)
    ] = None
    summary_learning_rate: Annotated[
        float | None,
        typer.Option(
            help="AdamW's peak for the summary embeddings; without it --learning-rate is for them too.",
            min=1e-9,
            rich_help_panel=SIZE,
        ),
    ] = None
    matrix_learning_rate: Annotated[
        float | None,
        typer.Option(
            help="Muon's peak in the adaptation, for hidden matrices; AdamW takes the rest.",
            min=1e-9,
            rich_help_panel=SIZE,
        ),
    ] = None
    warmup_steps: Annotated[
        int | None,
        typer.Option(help="Of the adaptation; at most a fifth of its steps.", min=0, rich_help_panel=SIZE),
    ] = None
    precision: Annotated[
        Precision | None,
        typer.Option(
            help="Of matrix work: bfloat16, or float32 with `no`. By default the recipe's, and `no` where a machine "
            "has no instructions for bfloat16.",
            rich_help_panel=MACHINE,
        ),
    ] = None
    has_recomputed_segments: Annotated[
        bool,
        typer.Option(
            "--recompute-segments",
            help="Compute activations again instead of keeping them: less memory, one more forward pass.",
            rich_help_panel=MACHINE,
        ),
    ] = False

    def apply(self, recipe: Recipe) -> Recipe:
        """The changed recipe.

        Raises:
            ValueError: a change that the recipe has no place for, or that leaves the summaries without a gradient.
            OSError: a base that is not there.
        """
        self._refuse_what_says_nothing(recipe)
        if recipe.compression.distillation is not None:
            self._refuse_what_is_not_distilled(recipe)
        pretraining = None if self.base is not None else recipe.pretraining
        if pretraining is not None:
            pretraining = _changed(
                pretraining, tokens=self.pretraining_tokens, micro_batch_sequences=self.micro_batch_sequences
            )
        trained = self.trained or recipe.trained
        changed = replace(
            recipe,
            base=self._base(recipe),
            pretraining=pretraining,
            adaptation=self._adaptation(recipe.adaptation, trained),
            compression=self._compression(recipe.compression),
            trained=trained,
            lora=self._lora(recipe.lora) if trained == "lora" else recipe.lora,
            precision=self.precision or recipe.precision,
            saved=self.saved or recipe.saved,
        )
        require_gradient(changed)
        require_savable(changed)
        return changed

    def _refuse_what_says_nothing(self, recipe: Recipe) -> None:
        if self.pretraining_tokens is not None and (recipe.pretraining is None or self.base is not None):
            raise ValueError(f"--pretraining-tokens {self.pretraining_tokens}: the base is there and is not pretrained")
        trained = self.trained or recipe.trained
        if self.lora_rank is not None and trained != "lora":
            raise ValueError(f"--lora-rank {self.lora_rank} goes with --train lora; this trains {trained}")
        if trained != recipe.trained and self.learning_rate is None:
            raise ValueError(
                f"--train {trained} needs a --learning-rate: the recipe's {recipe.adaptation.learning_rate:g} is for "
                f"--train {recipe.trained}"
            )
        method = self.method or recipe.compression.method
        of_summaries = self.summary_length or self.summary_learning_rate or self.has_recomputed_segments
        if method not in ("autocompressor", "rmt") and of_summaries:
            raise ValueError(
                f"--summary-length, --summary-learning-rate and --recompute-segments say nothing with --method {method}"
            )
        if self.matrix_learning_rate is not None and trained != "all":
            raise ValueError(
                f"--matrix-learning-rate {self.matrix_learning_rate:g} is for whole matrices; --train {trained} "
                "trains none"
            )
        if self.has_no_stop_gradient and (self.substeps or self.segments_per_substep):
            raise ValueError("--no-stop-gradient is --substeps 1 with all segments in it; give one or the other")

    def _refuse_what_is_not_distilled(self, recipe: Recipe) -> None:
        asked = {
            "--train": self.trained not in (None, "lora"),
            "--method": self.method not in (None, "autocompressor"),
            "--fixed-segments": self.has_fixed_segments,
            "--no-stop-gradient": self.has_no_stop_gradient,
            "--substeps": self.substeps not in (None, 1),
            "--recompute-segments": self.has_recomputed_segments,
        }
        refused = [flag for flag, is_asked in asked.items() if is_asked]
        if refused:
            raise ValueError(f"{refused[0]} has no place in {recipe.name}, which distils segments that are read alone")

    def _base(self, recipe: Recipe) -> Base:
        base = _changed(recipe.base, name=self.base, max_positions=self.max_positions)
        if self.base is not None:
            config = AutoConfig.from_pretrained(config_source(self.base))
            shape = {name: value for name, value in config.to_dict().items() if name not in NOT_SHAPE}
            base = replace(base, architecture=config.model_type, shape=shape)
        if self.trained is not None:  # weights that train need float32, those that stand still do not
            base = replace(base, dtype="float32" if self.trained == "all" else "bfloat16")
        if recipe.compression.distillation is not None and (self.precision or recipe.precision) == "no":
            base = replace(base, dtype="float32")  # a frozen base computes in the format of its weights
        return base

    def _adaptation(self, stage: Stage, trained: Trained) -> Stage:
        if self.learning_rate is not None:
            stage = replace(stage, summary_learning_rate=None)
        changed = _changed(
            stage,
            tokens=self.tokens,
            sequence_tokens=self.sequence_tokens,
            batch_sequences=self.batch_sequences,
            micro_batch_sequences=self.micro_batch_sequences,
            learning_rate=self.learning_rate,
            summary_learning_rate=self.summary_learning_rate,
            matrix_learning_rate=self.matrix_learning_rate,
            warmup_steps=self.warmup_steps,
        )
        # Muon is for whole matrices
        return changed if trained == "all" else replace(changed, matrix_learning_rate=None)

    def _compression(self, compression: Compression) -> Compression:
        changed = _changed(
            compression,
            method=self.method,
            summary_length=self.summary_length,
            substeps=self.substeps,
            segments_per_substep=self.segments_per_substep,
            max_segment_tokens=self.max_segment_tokens,
            segment_length=self.segment_length,
            is_randomised=False if self.has_fixed_segments else None,
            segment_gradient_checkpointing=self.has_recomputed_segments or None,
        )
        if self.has_no_stop_gradient:
            return replace(changed, substeps=1, segments_per_substep=changed.num_segments)
        return changed

    def _lora(self, lora: Lora | None) -> Lora:
        lora = lora or DEFAULT_LORA
        return lora if self.lora_rank is None else replace(lora, rank=self.lora_rank, alpha=self.lora_rank)


Settings = TypeVar("Settings", Base, Stage, Compression)


def _changed(settings: Settings, **changes: Any) -> Settings:
    """With what is not None put in its place."""
    return replace(settings, **{name: value for name, value in changes.items() if value is not None})


def with_override_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command that takes `**changes` one flag a field of `Overrides`, so that the two cannot drift apart."""
    own = inspect.signature(command).parameters.values()
    hints = get_type_hints(Overrides, include_extras=True)
    flags = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=getattr(Overrides, name), annotation=hint)
        for name, hint in hints.items()
    ]
    named = [parameter for parameter in own if parameter.kind is not inspect.Parameter.VAR_KEYWORD]
    keywords = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in named] + flags
    keywords.sort(key=_panel_number)  # `--help` prints panels in the order of their first flags
    command.__signature__ = inspect.Signature(keywords)  # type: ignore[attr-defined]  # what typer reads
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in keywords}
    return command


def _panel_number(parameter: inspect.Parameter) -> int:
    _, *metadata = get_args(parameter.annotation) or (None,)
    panels = [option.rich_help_panel for option in metadata if hasattr(option, "rich_help_panel")]
    return PANELS.index(panels[0]) if panels else 0
