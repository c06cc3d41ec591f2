"""The built-in engine, from a loaded model and the settings."""

import logging

from model import AutoCompressor
from server.engine.torch.devices import choose_kernels
from server.engine.torch.engine import TorchEngine
from server.engine.torch.memory import free_bytes
from server.engine.torch.packed import PackedModel
from server.engine.torch.runner import Runner
from server.engine.torch.scheduler import Limits
from server.metrics import Metrics
from server.settings import Settings

logger = logging.getLogger(__name__)

FREE_SHARE = 4  # of free memory, so many parts; one is for what is being read
PROMPT_SHARE = 4  # of that, so many parts; one is for prompts, the others for documents
CPU_STEP_TOKENS = 512  # of one document or prompt in one step: enough to keep a CPU busy
BLOCK_TOKENS = 128  # of a prompt, kept together; as many at most are read again of a prompt that grew


def build_engine(
    compressor: AutoCompressor, max_sequence_tokens: int, settings: Settings, metrics: Metrics
) -> TorchEngine:
    """The built-in engine around a loaded model that has a tokenizer, not yet started."""
    assert compressor.tokenizer is not None
    kernels = choose_kernels(settings.attention, compressor.device, compressor.dtype)
    packed = PackedModel(compressor, kernels, num_rows=settings.max_running_sequences, max_tokens=max_sequence_tokens)
    most = CPU_STEP_TOKENS if compressor.device.type == "cpu" else settings.max_batch_tokens
    max_document_positions, max_prompt_positions = working_positions(packed, settings)
    limits = Limits(
        max_running=settings.max_running_sequences,
        max_sequence_tokens=max_sequence_tokens,
        max_batch_tokens=settings.max_batch_tokens,
        segments_together=max(1, most // compressor.segment_length),
        max_kept_positions=settings.prefix_cache_bytes // packed.pool.position_bytes,
        blocks_together=max(1, most // BLOCK_TOKENS),
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
    )


def working_positions(packed: PackedModel, settings: Settings) -> tuple[int, int]:
    """Positions that documents may hold in strips while they are compressed, and prompts before they have a row."""
    pool, device = packed.pool, packed.model.device
    working_bytes = settings.working_bytes
    if working_bytes is None:
        promised = settings.prefix_cache_bytes + (pool.nbytes if device.type == "cpu" else 0)  # and not yet taken
        working_bytes = max(0, free_bytes(device) - promised) // FREE_SHARE
    positions = working_bytes // pool.position_bytes
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
