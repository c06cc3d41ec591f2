"""A run in its directory: tokenizer, base, adaptation, checkpoint; what is found finished is not done again."""

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import torch
from accelerate import Accelerator
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from model import AutoCompressor
from model.atomic import written_aside
from model.bases.known import resolve_base
from model.checkpoint_directory import share_weights
from training.bases.adapters import Adapted
from training.bases.loading import loaded_base, new_base, take_over
from training.bases.references import parts_of, plain_base, reference_of
from training.data.batches import Batches, Part
from training.data.documents import load_documents
from training.data.sources import Source
from training.data.tokenizer import train_tokenizer
from training.loop.stopping import StopRequest
from training.loop.trainer import Interrupted, Trainer
from training.objectives.cross_entropy import LanguageModelling, Segments
from training.objectives.distillation import Distilling
from training.objectives.objective import Objective
from training.planning.passes import num_pieces, require_fit
from training.recipes.recipe import Recipe, Stage

logger = logging.getLogger(__name__)

PRETRAINING, ADAPTATION = "pretraining", "adaptation"  # each stage's folder
TOKENIZER_CHARACTERS = 200_000  # of each document: a vocabulary needs no more, and merges are counted in memory


class Run:
    """Everything one recipe makes of some documents."""

    def __init__(
        self,
        directory: Path,
        recipe: Recipe,
        sources: Sequence[Source],
        *,
        seed: int,
        cache: Path,
        accelerator: Accelerator,
        save_minutes: float = 10.0,
    ) -> None:
        self.directory, self.recipe, self.sources = directory, recipe, sources
        self.seed, self.cache, self.accelerator, self.save_minutes = seed, cache, accelerator, save_minutes

    @property
    def checkpoint(self) -> Path:
        """The AutoCompressor, once it is trained."""
        return self.directory / "checkpoint"

    @property
    def interim(self) -> Path:
        """Of a run that was stopped what it has learned, where that is saved without the base."""
        return self.directory / "interim"

    def train(self, stop: StopRequest) -> None:
        """Do all that is not done yet.

        Raises:
            Interrupted, FloatingPointError: as `Trainer.train` says.
            ValueError: the documents, the base and the recipe do not fit each other.
            OSError: no base of that name.
        """
        if self.checkpoint.is_dir():
            return
        require_fit(self.recipe)  # before hours of work, not after
        trainer = self._trainer(ADAPTATION, self.recipe.adaptation, self._objective())
        base = self._base_path(stop)
        adapted = self._adapted(base)
        self._remove(self.interim)
        try:
            trainer.train(adapted.model, stop)
        except Interrupted:
            if self.recipe.saved == "adapter":
                self._write(self.interim, lambda directory: self._export(base, trainer, directory))
            raise
        del adapted
        self._write(self.checkpoint, lambda directory: self._export(base, trainer, directory))
        trainer.snapshots.clear()

    def _base_path(self, stop: StopRequest) -> Path:
        """Where the base is, or a checkpoint that stands on one; one that is ours is pretrained first."""
        if self.recipe.base.name is not None:
            return resolve_base(self.recipe.base.name)
        directory = self.directory / "base"
        if not directory.is_dir():
            assert self.recipe.pretraining is not None
            trainer = self._trainer(PRETRAINING, self.recipe.pretraining, LanguageModelling())
            trainer.train(self._untrained(), stop)

            def write(aside: Path) -> None:
                model = self._untrained()
                trainer.snapshots.load(model)
                model.base.save_pretrained(aside)
                share_weights(aside)
                self.tokenizer.save_pretrained(aside)

            self._write(directory, write)
            trainer.snapshots.clear()
        return directory

    def _untrained(self) -> AutoCompressor:
        base = new_base(self.recipe.base, self.tokenizer, seed=self.seed)
        model = AutoCompressor.from_base(base, 0)
        model.embed_summary.requires_grad_(requires_grad=False)
        return model

    def _adapted(self, path: Path) -> Adapted:
        parts = parts_of(path)
        base, tokenizer = loaded_base(self.recipe.base, str(plain_base(path)))
        reader = None if parts is None else parts.adapter
        adapted = Adapted.of(base, self.recipe, tokenizer, seed=self.seed, reader=reader)
        if parts is not None:
            take_over(adapted.model, parts, path)
        return adapted

    def _export(self, base: Path, trainer: Trainer, directory: Path) -> None:
        """Write what was trained alone, or the whole model, peft's adapters merged, in bfloat16.

        From the last snapshot into a model of its own, in one process: the one that trained may lie in shards.
        """
        adapted = self._adapted(base)
        trainer.snapshots.load(adapted.model)
        if self.recipe.saved == "adapter":
            adapted.model.save_adapter(directory, reference_of(self.recipe.base.name or str(base), base))
            return
        model = adapted.merged()
        # a bridge adds small differences to embeddings, and stays in float32
        (model if self.recipe.compression.distillation is None else model.base).to(torch.bfloat16)
        model.save_pretrained(directory, max_shard_size=self.recipe.max_shard_size)

    def _objective(self) -> Objective:
        if self.recipe.compression.method == "full-attention":
            return LanguageModelling(num_pieces(self.recipe))
        distillation = self.recipe.compression.distillation
        if distillation is not None:
            if self.accelerator.num_processes > 1:
                raise ValueError(f"distillation trains in 1 process; these are {self.accelerator.num_processes}")
            return Distilling(self.recipe.compression, distillation, self.tokenizer, seed=self.seed)
        return Segments(self.recipe.compression, seed=self.seed)

    def _trainer(self, name: str, stage: Stage, objective: Objective) -> Trainer:
        batches = Batches(
            self.parts,
            sequence_tokens=stage.sequence_tokens,
            batch_sequences=stage.batch_sequences,
            num_steps=stage.steps,
            seed=self.seed + (name == ADAPTATION),
        )
        seen = stage.steps * stage.batch_sequences
        logger.info(
            "%s: %d steps, %.1fM tokens, %.2f times the %d sequences that hold %.0f%% of the documents' tokens",
            name, stage.steps, seen * stage.sequence_tokens / 1e6, seen / batches.num_sequences,
            batches.num_sequences, 100 * batches.used_share,
        )  # fmt: skip
        return Trainer(
            self.accelerator,
            stage,
            objective,
            batches,
            directory=self.directory / name,
            save_minutes=self.save_minutes,
        )

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The base's own, or one trained on the documents."""
        directory = self.directory / "tokenizer"
        is_missing = self.recipe.base.name is None and not directory.is_dir()
        self.accelerator.wait_for_everyone()  # until all have looked
        if is_missing:
            shape = self.recipe.base.shape
            self._write(
                directory,
                lambda aside: train_tokenizer(
                    self._excerpts(),
                    vocabulary_size=shape["vocab_size"],
                    max_positions=shape["max_position_embeddings"],
                ).save_pretrained(aside),
            )
        name = self.recipe.base.name
        place = directory if name is None else plain_base(resolve_base(name))
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(place)
        return tokenizer

    def _excerpts(self) -> Iterator[str]:
        for source in self.sources:
            for file in source.files("train"):
                yield from (record.text[:TOKENIZER_CHARACTERS] for record in file.records() if record.text is not None)

    @cached_property
    def parts(self) -> list[Part]:
        """The sources, tokenised by the first process."""
        tokenizer = self.tokenizer
        with self.accelerator.local_main_process_first():
            return [
                Part(load_documents(source.files("train"), tokenizer, self.cache), source.weight)
                for source in self.sources
            ]

    def _write(self, directory: Path, write: Callable[[Path], object]) -> None:
        """Have the first process write a directory, whole or not at all; the others wait."""
        if self.accelerator.is_main_process:
            with written_aside(directory) as aside:
                write(aside)
        self.accelerator.wait_for_everyone()

    def _remove(self, directory: Path) -> None:
        """Have the first process remove a directory, if it is there."""
        if self.accelerator.is_main_process:
            shutil.rmtree(directory, ignore_errors=True)
        self.accelerator.wait_for_everyone()
