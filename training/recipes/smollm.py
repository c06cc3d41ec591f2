"""Recipes for anchored vectors of SmolLM2: the base, which stays as it is, teaches an adapter to read them."""

from dataclasses import replace

from training.recipes.recipe import Base, Compression, Distillation, Lora, Recipe, Stage


def smollm() -> Recipe:
    """SmolLM2-135M-Instruct on two CPU cores: contexts of 512 tokens.

    60 to 90 minutes at 400 to 600 tokens a second.
    """
    shape = {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "max_position_embeddings": 8192,
        "rope_parameters": {"rope_theta": 100000.0, "rope_type": "default"},
        "tie_word_embeddings": True,
    }
    return Recipe(
        name="smollm",
        base=Base("llama", shape, name="HuggingFaceTB/SmolLM2-135M-Instruct", dtype="bfloat16"),
        adaptation=Stage(
            tokens=2_250_000,
            sequence_tokens=704,
            batch_sequences=2,
            micro_batch_sequences=2,
            learning_rate=8e-4,
            summary_learning_rate=2e-3,
            warmup_steps=25,
            decay="linear",
            final_share=0.05,
        ),
        compression=Compression(
            summary_length=16,
            substeps=1,
            segments_per_substep=6,
            max_segment_tokens=512,
            segment_length=128,
            compressor="anchored",
            distillation=Distillation(context_tokens=512, cut_tokens=16, whole=0.2),
        ),
        trained="lora",
        lora=Lora(
            rank=16,
            alpha=32,
            dropout=0.0,
            modules=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        ),
        saved="adapter",
    )


def smollm_gpu() -> Recipe:
    """The same on an H100: contexts of 768 tokens in up to eight segments; half an hour at 48,000 tokens a second."""
    recipe = smollm()
    assert recipe.lora is not None
    return replace(
        recipe,
        name="smollm-gpu",
        adaptation=replace(
            recipe.adaptation,
            tokens=80_000_000,
            sequence_tokens=960,
            batch_sequences=64,
            micro_batch_sequences=32,
            learning_rate=1e-3,
            warmup_steps=100,
        ),
        compression=replace(
            recipe.compression,
            segments_per_substep=8,
            max_segment_tokens=768,
            distillation=Distillation(context_tokens=768, cut_tokens=32, whole=0.1, padded_positions=24_576),
        ),
        lora=replace(recipe.lora, rank=24, alpha=48),
    )
