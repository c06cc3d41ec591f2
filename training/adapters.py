"""What trains: everything, low-rank adapters (peft), or the summary embeddings alone."""

import warnings
from dataclasses import dataclass

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from model import AutoCompressor
from training.recipe import Recipe


@dataclass(frozen=True)
class Adapted:
    """An AutoCompressor in training, and the adapters in its base, None where it has none."""

    model: AutoCompressor
    adapters: PeftModel | None

    @classmethod
    def of(cls, base: PreTrainedModel, recipe: Recipe, tokenizer: PreTrainedTokenizerBase, *, seed: int) -> "Adapted":
        """Wrap a base and let train what the recipe says; the seed sets the adapters' random weights.

        Raises:
            ValueError: LoRA without its settings, or on modules that the base does not have.
        """
        compression = recipe.compression
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
