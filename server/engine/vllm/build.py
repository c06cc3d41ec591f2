"""The vLLM engine, from a loaded model and the settings."""

import logging
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import vllm
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform

from model import AutoCompressor
from server.engine.vllm.arguments import Facts, parse_arguments
from server.engine.vllm.cut import write_cut
from server.engine.vllm.ends import keep_ends, require_servable
from server.engine.vllm.engine import VllmEngine
from server.engine.vllm.instance import Instance
from server.metrics import Metrics
from server.settings import Settings

logger = logging.getLogger(__name__)

FREE_SHARE = 4  # of a CPU's free memory, so many parts; one is for keys and values of an instance, at most
DEVICE_SHARE = 0.9  # of a device's memory, for all instances together
BLOCK_TOKENS = 128  # of vLLM's pages on a CPU
KNOWN = frozenset(field.name for field in fields(AsyncEngineArgs))


def build_engine(
    compressor: AutoCompressor,
    max_sequence_tokens: int,
    settings: Settings,
    metrics: Metrics,
    *,
    end_of_text: frozenset[int],
) -> VllmEngine:
    """An engine that is not yet started, of a model that was loaded on the CPU; its layers are let go of.

    Raises:
        ValueError: the model, the device or `engine_args` is one that this engine does not serve.
    """
    device_type = str(current_platform.device_type)
    if settings.device not in ("auto", device_type):
        raise ValueError(f"device is {settings.device!r}; the vLLM that is installed runs on {device_type!r} alone")
    require_servable(compressor)
    facts = Facts(
        model=Path(compressor.base.name_or_path),
        dtype=str(compressor.dtype).removeprefix("torch."),
        max_positions=compressor.positions.max_positions,
        max_tokens=max_sequence_tokens,
        max_sequences=settings.max_running_sequences,
        max_batch_tokens=settings.max_batch_tokens,
        adapter_rank=None if compressor.adapter is None else compressor.adapter.rank,
        adapter_modules=() if compressor.adapter is None else compressor.adapter.modules,
    )
    added = parse_arguments(settings.engine_args, known=KNOWN, taken=facts.names)
    num_pooling = 0 if settings.role == "generate" else max(1, len(compressor.writer.layers))
    num_instances = num_pooling + (settings.role != "compress")
    if device_type == "cpu":
        added = {"kv_cache_memory_bytes": _cpu_bytes(compressor, facts), **added}
    else:
        added = {"gpu_memory_utilization": DEVICE_SHARE / num_instances, **added}
    aside = TemporaryDirectory(prefix="autocompressor-")
    pooling, generating, adapter = list[Instance](), None, None
    if settings.role != "generate":
        pooling = pooling_instances(compressor, facts, added, Path(aside.name))
    if settings.role != "compress":
        generating = Instance({**facts.generating(), **added})
    if compressor.adapter is not None:
        reader = Path(aside.name) / "reader"
        compressor.adapter.save(reader, base=str(facts.model))
        adapter = LoRARequest("reader", 1, str(reader))
    keep_ends(compressor)
    logger.info("vLLM %s on %s, role %s", vllm.__version__, device_type, settings.role)
    return VllmEngine(
        compressor,
        pooling=pooling,
        generating=generating,
        adapter=adapter,
        end_of_text=end_of_text,
        max_sequence_tokens=max_sequence_tokens,
        max_requests=settings.max_requests,
        metrics=metrics,
        aside=aside,
    )


def pooling_instances(
    compressor: AutoCompressor, facts: Facts, added: Mapping[str, Any], aside: Path
) -> list[Instance]:
    """One for the states of each layer that the model's writer reads, in its order; else one of the whole base.

    Of a layer that is not the last, the base up to there is written aside, and is a model to vLLM.

    Raises:
        ValueError: it cannot be cut there.
    """
    last = compressor.base.config.num_hidden_layers
    models = [
        facts.model if layer == last else write_cut(compressor, layer, aside / f"layer-{layer}")
        for layer in compressor.writer.layers or (last,)
    ]
    return [Instance({**facts.pooling(), "model": str(model), **added}) for model in models]


def _cpu_bytes(compressor: AutoCompressor, facts: Facts) -> int:
    """Memory for keys and values of an instance where nobody says: vLLM would take nearly all that there is."""
    config = compressor.base.config
    num_heads: int = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    position_bytes: int = 2 * config.num_hidden_layers * num_heads * width * compressor.dtype.itemsize
    longest, sequence_bytes = (
        position_bytes * (length // BLOCK_TOKENS + 1) * BLOCK_TOKENS
        for length in (facts.max_positions, facts.max_tokens)
    )
    most: int = psutil.virtual_memory().available // FREE_SHARE
    # one sequence more: vLLM keeps a page for itself
    return max(2 * longest, min((facts.max_sequences + 1) * sequence_bytes, most))
