"""What of a model stays in the server's own process, while vLLM's processes have all of it."""

import gc

import torch
from torch import nn

from model import AutoCompressor

CHECK_LENGTHS = (2, 3, 4)  # of soft prompt, tokens and summary tokens whose positions are compared


def require_servable(compressor: AutoCompressor) -> None:
    """Refuse a model that vLLM would read in another way than it was trained.

    Raises:
        ValueError: positions other than rotary ones, an adapter beside summary tokens, or a checkpoint in a layout that
            vLLM does not load.
    """
    config = compressor.base.config
    if getattr(config, "rope_parameters", None) is None or not _counts_straight_through(compressor):
        raise ValueError(
            f"vLLM numbers vectors and tokens straight through at rotary positions, which {config.model_type} has not: "
            "serve it with engine 'torch'"
        )
    if compressor.adapter is not None and compressor.config.compressor == "summary_tokens":
        raise ValueError("summary tokens beside a reading adapter are not known to engine 'vllm': serve with 'torch'")
    if hasattr(config, "summary_length"):
        raise ValueError(
            "the checkpoint is in the layout that the authors published, with summary embeddings among the base's "
            "weights, which vLLM does not load: save it anew with AutoCompressor.save_pretrained"
        )


def _counts_straight_through(compressor: AutoCompressor) -> bool:
    """Whether the model numbers `[soft prompt | tokens | summary tokens]` as vLLM does, from 0 on."""
    num_vectors, num_tokens, num_appended = CHECK_LENGTHS
    mask = torch.ones(1, num_tokens, dtype=torch.long)
    places = compressor.positions.ids(mask, num_vectors, num_appended)[0]
    return bool(torch.equal(places, torch.arange(sum(CHECK_LENGTHS))))


@torch.no_grad()
def keep_ends(compressor: AutoCompressor) -> None:
    """Let go of a model's layers; it still embeds, writes vectors and, where its writer reads losses, has logits."""
    base = compressor.base
    kept: list[nn.Module] = [base.get_input_embeddings()]
    if compressor.writer.reads_losses:
        kept.append(base.get_output_embeddings())
    identities = {id(parameter) for module in kept for parameter in module.parameters()}
    if compressor.adapter is not None:
        compressor.adapter.let_go()
    for parameter in base.parameters():
        # what is kept is copied: it lies in the checkpoint's file, mapped as a whole until the last of it is gone
        parameter.data = parameter.data.clone() if id(parameter) in identities else parameter.data.new_empty(0)
    gc.collect()
