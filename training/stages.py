"""The two stages: a base language model from nothing, and its adaptation into an AutoCompressor."""

import logging
import random
from contextlib import AbstractContextManager

import torch
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from model import AutoCompressor
from model.autocompressor import shifted_loss
from training.data import TokenisedDocuments
from training.optimisation import optimise
from training.recipes import Compression, Recipe
from training.segmenting import draw_lengths

logger = logging.getLogger(__name__)


def pretrain(
    recipe: Recipe, documents: TokenisedDocuments, tokenizer: PreTrainedTokenizerBase, *, seed: int
) -> LlamaForCausalLM:
    """Train a Llama-architecture base by next-token prediction on runs of documents."""
    torch.manual_seed(seed)
    base = LlamaForCausalLM(recipe.base_config(end_of_text=tokenizer.eos_token_id))
    logger.info("base: %.2fM parameters", base.num_parameters() / 1e6)

    def backward(batch: Tensor) -> float:
        with autocast():
            logits = base(input_ids=batch, use_cache=False).logits
        loss = shifted_loss(logits, batch)
        loss.backward()
        return float(loss.detach())

    optimise(base, recipe.pretraining, documents, backward, seed=seed, description="pretraining")
    return base


def adapt(
    recipe: Recipe,
    base: LlamaForCausalLM,
    documents: TokenisedDocuments,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int,
) -> AutoCompressor:
    """Train a base and its summary embeddings on sequences of several segments (arXiv 2305.14788, section 3)."""
    compression = recipe.compression
    model = AutoCompressor.from_base(
        base,
        compression.summary_length,
        compression.accumulate_summary,
        segment_length=compression.segment_length,
        tokenizer=tokenizer,
    )
    lengths = random.Random(seed)

    def backward(batch: Tensor) -> float:
        return backward_by_substeps(model, batch, compression, lengths)

    optimise(model, recipe.adaptation, documents, backward, seed=seed + 1, description="adaptation")
    return model


def backward_by_substeps(
    model: AutoCompressor, batch: Tensor, compression: Compression, generator: random.Random
) -> float:
    """Leave the gradients of one batch; the mean loss of its substeps.

    Each substep's loss is back-propagated at once and the soft prompt detached before the next: gradients cross the
    compression steps of one substep, and memory does not grow with the length of the sequence (section 3.3).
    """
    slice_tokens, rest = divmod(batch.shape[1], compression.substeps)
    if rest:
        raise ValueError(f"{batch.shape[1]} tokens do not divide into {compression.substeps} substeps")
    soft_prompt = model.empty_soft_prompt(batch.shape[0])
    losses: list[float] = []
    for tokens in batch.split(slice_tokens, dim=1):
        segment_lengths = draw_lengths(
            slice_tokens,
            compression.segments_per_substep,
            max_length=compression.max_segment_tokens,
            generator=generator,
        )
        is_last = len(losses) + 1 == compression.substeps
        with autocast():
            output = model(
                tokens,
                segment_lengths=segment_lengths,
                soft_prompt=soft_prompt,
                labels=tokens,
                output_soft_prompt=not is_last,
            )
        assert output.loss is not None
        output.loss.backward()
        losses.append(float(output.loss.detach()))
        soft_prompt = output.soft_prompt.detach()
    return sum(losses) / len(losses)


def autocast() -> AbstractContextManager[None]:
    """bfloat16 for matrix work; weights, norms and losses stay in float32."""
    return torch.autocast("cpu", dtype=torch.bfloat16)
