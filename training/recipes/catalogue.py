"""The recipes: functions that return one, by the name that `--recipe` takes."""

from collections.abc import Callable
from dataclasses import replace

from training.recipes.recipe import Base, Compression, Lora, Recipe, Stage
from training.recipes.smollm import smollm, smollm_gpu


def tiny() -> Recipe:
    """6.8M parameters for two CPU cores, in under an hour."""
    return Recipe(
        name="tiny",
        base=_llama(vocabulary=4096, hidden=320, intermediate=704, layers=6, heads=5, kv_heads=1),
        pretraining=Stage(
            tokens=5_500_000,
            sequence_tokens=1024,
            batch_sequences=8,
            micro_batch_sequences=8,
            learning_rate=3e-3,
            matrix_learning_rate=2e-2,
            warmup_steps=50,
        ),
        adaptation=Stage(
            tokens=2_500_000,
            sequence_tokens=2176,
            batch_sequences=4,
            micro_batch_sequences=4,
            learning_rate=1e-3,
            matrix_learning_rate=4e-3,
            warmup_steps=50,
        ),
        compression=_two_by_four(),
    )


def small() -> Recipe:
    """18.3M parameters, for the `paper` checkpoint: meant for two stages of under ten minutes each on one H200."""
    return Recipe(
        name="small",
        base=_llama(vocabulary=8192, hidden=512, intermediate=1408, layers=5, heads=8, kv_heads=2),
        pretraining=Stage(
            tokens=600_000_000,
            sequence_tokens=1024,
            batch_sequences=128,
            micro_batch_sequences=64,
            learning_rate=3e-3,
            matrix_learning_rate=2e-2,
            warmup_steps=100,
        ),
        adaptation=Stage(
            tokens=150_000_000,
            sequence_tokens=2176,
            batch_sequences=32,
            micro_batch_sequences=32,
            learning_rate=1e-3,
            matrix_learning_rate=4e-3,
            warmup_steps=100,
        ),
        compression=_two_by_four(),
        max_shard_size="14MB",  # it is kept with the source, in files that any host of sources takes
    )


def small_cpu() -> Recipe:
    """9.4M parameters: what two CPU cores make of `small` in an hour and a half; rerun `small` where there is a GPU."""
    recipe = small()
    assert recipe.pretraining is not None
    return replace(
        recipe,
        name="small-cpu",
        base=_llama(vocabulary=8192, hidden=384, intermediate=1024, layers=4, heads=6, kv_heads=2),
        pretraining=replace(
            recipe.pretraining, tokens=12_000_000, batch_sequences=8, micro_batch_sequences=4, warmup_steps=50
        ),
        adaptation=replace(
            recipe.adaptation,
            tokens=3_500_000,
            batch_sequences=4,
            micro_batch_sequences=4,
            summary_learning_rate=4e-3,
            matrix_learning_rate=8e-3,
            warmup_steps=20,
        ),
    )


def _llama(*, vocabulary: int, hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int) -> Base:
    shape = {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": True,
    }
    return Base("llama", shape)


def _two_by_four() -> Compression:
    """Eight segments of 160 to 384 tokens, sixteen tokens to a vector; gradients cross the steps of four.

    A slice's last vectors get no gradient: of two segments, half would learn, and from the next segment alone.
    """
    return Compression(
        summary_length=16, substeps=2, segments_per_substep=4, max_segment_tokens=384, segment_length=256
    )


def opt_2_7b_6k() -> Recipe:
    """OPT-2.7B on 6,144-token sequences (arXiv 2305.14788, section 4.1, and the authors' run/train.sh)."""
    shape = {
        "vocab_size": 50272,
        "hidden_size": 2560,
        "ffn_dim": 10240,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
        "word_embed_proj_dim": 2560,
        "tie_word_embeddings": True,
    }
    return Recipe(
        name="opt-2.7b-6k",
        base=Base("opt", shape, name="facebook/opt-2.7b"),
        adaptation=_published_stage(tokens=2_000_000_000, sequence_tokens=6144, batch_sequences=16),
        compression=Compression(
            summary_length=50,
            substeps=2,
            segments_per_substep=2,
            max_segment_tokens=2048,
            segment_length=1536,
        ),
    )


def opt_1_3b_30k() -> Recipe:
    """OPT-1.3B on 30,720-token sequences of 20 segments (arXiv 2305.14788, section 4.2)."""
    shape = {
        "vocab_size": 50272,
        "hidden_size": 2048,
        "ffn_dim": 8192,
        "num_hidden_layers": 24,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
        "word_embed_proj_dim": 2048,
        "tie_word_embeddings": True,
    }
    return Recipe(
        name="opt-1.3b-30k",
        base=Base("opt", shape, name="facebook/opt-1.3b"),
        adaptation=_published_stage(tokens=2_000_000_000, sequence_tokens=30_720, batch_sequences=4),
        compression=Compression(
            summary_length=50,
            substeps=10,
            segments_per_substep=2,
            max_segment_tokens=2048,
            segment_length=1536,
            segment_gradient_checkpointing=True,
        ),
    )


def llama_2_7b_6k() -> Recipe:
    """Llama-2-7B on 6,144-token sequences with LoRA (the authors' run/train_llama.sh)."""
    shape = {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
    }
    return Recipe(
        name="llama-2-7b-6k",
        base=Base("llama", shape, name="meta-llama/Llama-2-7b-hf", dtype="bfloat16"),
        adaptation=replace(
            _published_stage(tokens=15_000_000_000, sequence_tokens=6144, batch_sequences=32),
            learning_rate=8e-4,
            warmup_steps=5000,
        ),
        compression=Compression(
            summary_length=50,
            substeps=2,
            segments_per_substep=2,
            max_segment_tokens=4096 - 4 * 50,  # the soft prompt takes positions too
            segment_length=1536,
            segment_gradient_checkpointing=True,
        ),
        trained="lora",
        lora=Lora(rank=16, alpha=16, dropout=0.05, modules=("q_proj", "k_proj", "v_proj", "o_proj")),
    )


def qwen3_0_6b() -> Recipe:
    """Qwen3-0.6B, a modern small base: sequences of 12,288 tokens in eight segments, every weight trained."""
    shape = {
        "vocab_size": 151936,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": True,
    }
    return Recipe(
        name="qwen3-0.6b",
        base=Base("qwen3", shape, name="Qwen/Qwen3-0.6B-Base"),
        adaptation=replace(
            _published_stage(tokens=1_000_000_000, sequence_tokens=12_288, batch_sequences=16),
            decay="cosine",
            final_share=0.1,
        ),
        compression=Compression(
            summary_length=50,
            substeps=4,
            segments_per_substep=2,
            max_segment_tokens=2048,
            segment_length=1536,
            segment_gradient_checkpointing=True,
        ),
    )


def _published_stage(*, tokens: int, sequence_tokens: int, batch_sequences: int) -> Stage:
    """What the authors' run/train.sh sets, and its trainer's defaults: linear decay to 0, AdamW's usual betas."""
    return Stage(
        tokens=tokens,
        sequence_tokens=sequence_tokens,
        batch_sequences=batch_sequences,
        learning_rate=2e-5,
        warmup_steps=1000,
        decay="linear",
        final_share=0.0,
        adam_betas=(0.9, 0.999),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "tiny": tiny,
    "small": small,
    "small-cpu": small_cpu,
    "smollm": smollm,
    "smollm-gpu": smollm_gpu,
    "opt-1.3b-30k": opt_1_3b_30k,
    "opt-2.7b-6k": opt_2_7b_6k,
    "llama-2-7b-6k": llama_2_7b_6k,
    "qwen3-0.6b": qwen3_0_6b,
}
