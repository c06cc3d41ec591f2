"""A run in its directory: tokenizer, base, adaptation, checkpoint; what is found finished is not done again."""

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import torch
from accelerate import Accelerator
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from model import AutoCompressor
from model.atomic import written_aside
from model.checkpoint import share_weights
from training.adapters import Adapted
from training.bases import loaded_base, new_base, take_over_summaries
from training.batches import Batches, Part
from training.data import load_documents
from training.objectives import LanguageModelling, Objective, Segments
from training.passes import num_pieces, require_fit
from training.recipe import Recipe, Stage
from training.sources import Source
from training.stopping import StopRequest
from training.tokenizer import train_tokenizer
from training.trainer import Trainer

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
        trainer.train(adapted.model, stop)
        del adapted
        self._write(self.checkpoint, lambda directory: self._export(base, trainer, directory))
        trainer.snapshots.clear()

    def _base_path(self, stop: StopRequest) -> str:
        """Where the base is; one that is ours is pretrained first."""
        if self.recipe.base.name is not None:
            return self.recipe.base.name
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
        return str(directory)

    def _untrained(self) -> AutoCompressor:
        base = new_base(self.recipe.base, self.tokenizer, seed=self.seed)
        model = AutoCompressor.from_base(base, 0)
        model.embed_summary.requires_grad_(requires_grad=False)
        return model

    def _adapted(self, path: str) -> Adapted:
        base, tokenizer = loaded_base(self.recipe.base, path)
        adapted = Adapted.of(base, self.recipe, tokenizer, seed=self.seed)
        take_over_summaries(adapted.model, path)
        return adapted

    def _export(self, base: str, trainer: Trainer, directory: Path) -> None:
        """Write the trained model, adapters merged, in bfloat16.

        From the last snapshot into a model of its own, in one process: the one that trained may lie in shards.
        """
        adapted = self._adapted(base)
        trainer.snapshots.load(adapted.model)
        model = adapted.merged().to(torch.bfloat16)
        model.save_pretrained(directory, max_shard_size=self.recipe.max_shard_size)

    def _objective(self) -> Objective:
        if self.recipe.compression.method == "full-attention":
            return LanguageModelling(num_pieces(self.recipe))
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
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(self.recipe.base.name or directory)
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
