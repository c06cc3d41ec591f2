"""What trains: everything, low-rank adapters (peft), the summary embeddings alone, or an adapter that reads."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from model import AutoCompressor
from model.adapter import Adapter
from training.recipes.recipe import Recipe


@dataclass(frozen=True)
class Adapted:
    """An AutoCompressor in training, and peft's adapters in its base, None where it has none.

    Summary tokens are written and read with one set of adapters, which are merged at the end. Vectors that a frozen
    base writes are read with the model's own `Adapter`, which stays apart.
    """

    model: AutoCompressor
    adapters: PeftModel | None

    @classmethod
    def of(
        cls,
        base: PreTrainedModel,
        recipe: Recipe,
        tokenizer: PreTrainedTokenizerBase,
        *,
        seed: int,
        reader: Path | None = None,
    ) -> "Adapted":
        """Wrap a base and let train what the recipe says; the seed sets the adapters' random weights.

        Args:
            reader: a stored reading adapter to go on with; None starts one anew.

        Raises:
            ValueError: LoRA without its settings, or on modules that the base does not have.
        """
        compression = recipe.compression
        if compression.distillation is not None:
            return cls(_distilled(base, recipe, tokenizer, seed=seed, reader=reader), None)
        model = AutoCompressor.from_base(
            base,
            compression.summary_length if compression.has_summaries else 0,
            compression.method != "rmt",
            segment_length=compression.segment_length,
            tokenizer=tokenizer,
        )
        model.segment_gradient_checkpointing = compression.segment_gradient_checkpointing
        model.embed_summary.float()
        adapters = None
        if recipe.trained == "lora":
            if recipe.lora is None:
                raise ValueError(f"the recipe {recipe.name} trains LoRA's adapters and does not say which")
            settings = LoraConfig(
                r=recipe.lora.rank,
                lora_alpha=recipe.lora.alpha,
                lora_dropout=recipe.lora.dropout,
                target_modules=list(recipe.lora.modules),
                task_type="CAUSAL_LM",
            )
            with torch.random.fork_rng(), warnings.catch_warnings():
                # peft asks what newer releases of transformers call by another name
                warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
                torch.manual_seed(seed)
                adapters = get_peft_model(base, settings)
        elif recipe.trained == "summary":
            base.requires_grad_(requires_grad=False)
        if not compression.has_summaries:
            model.embed_summary.requires_grad_(requires_grad=False)
        return cls(model, adapters)

    def merged(self) -> AutoCompressor:
        """The trained model, with the adapters' products added to the weights they adapt."""
        if self.adapters is not None:
            self.adapters.merge_and_unload()
        return self.model


def _distilled(
    base: PreTrainedModel, recipe: Recipe, tokenizer: PreTrainedTokenizerBase, *, seed: int, reader: Path | None
) -> AutoCompressor:
    """A frozen base with an adapter and a bridge that train, both in float32."""
    compression, lora = recipe.compression, recipe.lora
    if lora is None or recipe.trained != "lora" or lora.dropout:
        raise ValueError(f"the recipe {recipe.name} distils into an adapter: it trains lora, without dropout")
    base.requires_grad_(requires_grad=False)
    if reader is not None:
        adapter = Adapter.load(reader, base)
        if (adapter.rank, adapter.alpha) != (lora.rank, lora.alpha) or set(adapter.modules) != set(lora.modules):
            raise ValueError(
                f"the adapter in {reader} has rank {adapter.rank}, alpha {adapter.alpha:g} and {len(adapter.modules)} "
                f"modules; the recipe's has rank {lora.rank}, alpha {lora.alpha} and {len(lora.modules)}"
            )
    else:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            adapter = Adapter.put_into(base, lora.modules, rank=lora.rank, alpha=lora.alpha)
    model = AutoCompressor.from_base(
        base,
        compression.summary_length,
        segment_length=compression.segment_length,
        compressor=compression.compressor,
        tokenizer=tokenizer,
    )
    model.adapter = adapter
    return model
