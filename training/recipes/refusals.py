"""What a changed recipe must not be: one that trains nothing, or whose checkpoint would be without what changed."""

from training.recipes.recipe import Recipe


def require_gradient(recipe: Recipe) -> None:
    """Refuse what would train nothing: summary vectors get their gradient through the segment after theirs."""
    compression = recipe.compression
    is_distilled = compression.distillation is not None
    if compression.has_summaries and compression.segments_per_substep < 2 and not is_distilled:
        raise ValueError("with 1 segment a substep no gradient reaches the summary vectors; at least 2 are needed")
    if recipe.trained == "summary" and not compression.has_summaries:
        raise ValueError(f"--train summary leaves nothing to train with the method {compression.method}")


def require_savable(recipe: Recipe) -> None:
    """Refuse to save without its base what changes the base."""
    is_apart = recipe.compression.distillation is not None or recipe.trained == "summary"
    if recipe.saved == "adapter" and not is_apart:
        raise ValueError(
            f"--save adapter is for a base that stays as it is; --train {recipe.trained} of summary tokens changes it, "
            "LoRA's adapters being merged: --save full"
        )
