"""The built-in engines, from loaded models and the settings."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from model import AutoCompressor
from server.engine.torch.devices import choose_kernels
from server.engine.torch.engine import TorchEngine
from server.engine.torch.memory import free_bytes, keep_freed
from server.engine.torch.packed import PackedModel
from server.engine.torch.packed_linear import PackedLayers
from server.engine.torch.runner import Runner
from server.engine.torch.scheduler import Limits
from server.engine.torch.turns import Turns
from server.metrics import Metrics
from server.settings import Settings

logger = logging.getLogger(__name__)

FREE_SHARE = 4  # of free memory, so many parts; one is for what is being read
PROMPT_SHARE = 4  # of that, so many parts; one is for prompts, the others for documents
CPU_STEP_TOKENS = 512  # of one prompt in one step, and of one document at least: enough to keep a CPU busy
CPU_DOCUMENT_TOKENS, CPU_STEP_OPERATIONS = 2048, 6e11  # of one document at most, half a second's in bfloat16
BLOCK_TOKENS = 128  # of a prompt, kept together; as many at most are read again of a prompt that grew


@dataclass(frozen=True)
class Loaded:
    """A model to build an engine around; it has a tokenizer."""

    name: str
    compressor: AutoCompressor
    max_sequence_tokens: int


def build_engines(models: Sequence[Loaded], settings: Settings, metrics: Metrics) -> list[TorchEngine]:
    """An engine for each of these models, not yet started.

    They take turns on one thread, have the weights of a base that they share once, and each an equal part of the memory
    that is for what was read and what is being read.

    Raises:
        ValueError: the engine cannot run a model, or there is no room for its KV pool; its name is told.
    """
    if any(model.compressor.device.type == "cpu" for model in models):
        keep_freed()
    layers, turns = PackedLayers(), Turns(metrics)
    document_tokens = [_document_tokens(model.compressor, settings) for model in models]  # before weights are packed
    bases = Counter(_base_of(model) for model in models)
    packed = [_packed(model, settings, layers, is_alone=bases[_base_of(model)] == 1) for model in models]
    shares = {
        "prefix_cache_bytes": settings.prefix_cache_bytes // len(models),
        "working_bytes": working_bytes(packed, settings) // len(models),
    }
    own = settings.model_copy(update=shares)
    return [
        _engine(model, each, own, metrics, turns, document_tokens=tokens)
        for model, each, tokens in zip(models, packed, document_tokens, strict=True)
    ]


def _base_of(model: Loaded) -> int:
    """The same for models on one base."""
    return id(model.compressor.base.get_input_embeddings().weight)


def _packed(model: Loaded, settings: Settings, layers: PackedLayers, *, is_alone: bool) -> PackedModel:
    compressor = model.compressor
    try:
        return PackedModel(
            compressor,
            choose_kernels(settings.attention, compressor.device, compressor.dtype),
            num_rows=settings.max_running_sequences,
            max_tokens=model.max_sequence_tokens,
            layers=layers,
            merges_adapter=settings.adapters == "merged" or (settings.adapters == "auto" and is_alone),
        )
    except ValueError as error:
        raise ValueError(f"{model.name!r} cannot be served: {error}") from error


def _engine(
    model: Loaded, packed: PackedModel, settings: Settings, metrics: Metrics, turns: Turns, *, document_tokens: int
) -> TorchEngine:
    compressor = model.compressor
    assert compressor.tokenizer is not None
    is_cpu = compressor.device.type == "cpu"
    prompt_tokens = CPU_STEP_TOKENS if is_cpu else settings.max_batch_tokens
    max_document_positions, max_prompt_positions = working_positions(packed, settings.working_bytes or 0)
    limits = Limits(
        max_running=settings.max_running_sequences,
        max_sequence_tokens=model.max_sequence_tokens,
        max_batch_tokens=settings.max_batch_tokens,
        segments_together=max(1, document_tokens // compressor.segment_length),
        segments_beside=1 if is_cpu else None,  # so that no token waits for more
        max_kept_positions=settings.prefix_cache_bytes // packed.pool.position_bytes,
        blocks_together=max(1, prompt_tokens // BLOCK_TOKENS),
        block_tokens=BLOCK_TOKENS,
        max_document_positions=max_document_positions,
        max_prompt_positions=max_prompt_positions,
    )
    return TorchEngine(
        Runner(packed, rounds_vectors=settings.stored_vectors == "int8"),
        limits,
        max_requests=settings.max_requests,
        num_appended=compressor.writer.num_appended,
        accumulate_summary=compressor.config.accumulate_summary,
        reads_alone=compressor.config.reads_alone,
        end_of_text=end_of_text_ids(compressor),
        tokenizer=compressor.tokenizer,
        metrics=metrics,
        prefix_cache_bytes=settings.prefix_cache_bytes,
        turns=turns,
        name=f"the engine of {model.name!r}",
    )


def _document_tokens(compressor: AutoCompressor, settings: Settings) -> int:
    """Of one document in one step: on a CPU a product of 2,000 rows in bfloat16 is half as fast again as of 500."""
    if compressor.device.type != "cpu":
        return settings.max_batch_tokens
    if compressor.dtype != torch.bfloat16:
        return CPU_STEP_TOKENS
    operations = 2 * sum(weight.numel() for weight in compressor.base.parameters())  # of a token
    return max(CPU_STEP_TOKENS, min(CPU_DOCUMENT_TOKENS, int(CPU_STEP_OPERATIONS // operations)))


def working_bytes(packed: Sequence[PackedModel], settings: Settings) -> int:
    """Memory for what all of these models are reading."""
    if settings.working_bytes is not None:
        return settings.working_bytes
    device = packed[0].model.device
    pools = sum(each.pool.nbytes for each in packed) if device.type == "cpu" else 0
    promised = settings.prefix_cache_bytes + pools  # and not yet taken
    return max(0, free_bytes(device) - promised) // FREE_SHARE


def working_positions(packed: PackedModel, num_bytes: int) -> tuple[int, int]:
    """Positions that documents may hold in strips while they are compressed, and prompts before they have a row."""
    pool = packed.pool
    positions = num_bytes // pool.position_bytes
    prompts = max(positions // PROMPT_SHARE, pool.max_tokens)
    documents = max(positions - positions // PROMPT_SHARE, pool.max_tokens)
    logger.info(
        "keys and values of what is read take up to %.1f MB: of documents %d positions, of prompts %d",
        (documents + prompts) * pool.position_bytes / 1e6,
        documents,
        prompts,
    )
    return documents, prompts


def end_of_text_ids(compressor: AutoCompressor) -> frozenset[int]:
    """Every token that ends a generation: either configuration may name one or several, the tokenizer another."""
    base = compressor.base
    named = [
        getattr(each, "eos_token_id", None) for each in (base.config, base.generation_config, compressor.tokenizer)
    ]
    lists = [each if isinstance(each, list | tuple) else [each] for each in named]
    return frozenset(token_id for each in lists for token_id in each if token_id is not None)
