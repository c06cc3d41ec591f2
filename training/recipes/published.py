"""Recipes for published bases: OPT and Llama 2 as the paper's authors train them, and Qwen3 in their way."""

from dataclasses import replace

from training.recipes.recipe import Base, Compression, Lora, Recipe, Stage


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
