"""The built-in engine, from a loaded model and the settings."""

from model import AutoCompressor
from server.engine.torch.devices import choose_kernels
from server.engine.torch.engine import TorchEngine
from server.engine.torch.packed import PackedModel
from server.engine.torch.runner import Runner
from server.engine.torch.scheduler import Limits
from server.metrics import Metrics
from server.settings import Settings

CPU_STEP_TOKENS = 512  # of one document in one step: enough to keep a CPU busy


def build_engine(
    compressor: AutoCompressor, max_sequence_tokens: int, settings: Settings, metrics: Metrics
) -> TorchEngine:
    """The built-in engine around a loaded model that has a tokenizer, not yet started."""
    assert compressor.tokenizer is not None
    kernels = choose_kernels(settings.attention, compressor.device, compressor.dtype)
    packed = PackedModel(compressor, kernels, num_rows=settings.max_running_sequences, max_tokens=max_sequence_tokens)
    most = CPU_STEP_TOKENS if compressor.device.type == "cpu" else settings.max_batch_tokens
    limits = Limits(
        max_running=settings.max_running_sequences,
        max_sequence_tokens=max_sequence_tokens,
        max_batch_tokens=settings.max_batch_tokens,
        segments_together=max(1, most // compressor.segment_length),
    )
    return TorchEngine(
        Runner(packed),
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


def end_of_text_ids(compressor: AutoCompressor) -> frozenset[int]:
    """Every token that ends a generation: either configuration may name one or several, the tokenizer another."""
    base = compressor.base
    named = [
        getattr(each, "eos_token_id", None) for each in (base.config, base.generation_config, compressor.tokenizer)
    ]
    lists = [each if isinstance(each, list | tuple) else [each] for each in named]
    return frozenset(token_id for each in lists for token_id in each if token_id is not None)
