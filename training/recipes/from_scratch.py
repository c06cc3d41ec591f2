"""Recipes whose base is pretrained first, from a shape."""

from dataclasses import replace

from training.recipes.recipe import Base, Compression, Recipe, Stage


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
