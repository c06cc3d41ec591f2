"""Keys and values of a context, the best of which are kept: what compression without training does.

Two scores, as in kvpress (github.com/NVIDIA/kvpress, `knorm_press.py` and `snapkv_press.py`): the norm of the key
(arXiv 2406.11430: keys of small norm are attended to) and the attention that the last tokens of the context give
(SnapKV, arXiv 2404.14469). Each layer and each key-value head keeps as many positions.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from model import AutoCompressor
from training.bench.prefix import Prefix
from training.bench.reader import Reader
from training.planning.shapes import DecoderShape

WINDOW, KERNEL = 64, 5  # SnapKV's: tokens whose attention counts, and positions it is averaged over


def by_key_norm(reader: Reader, ids: Tensor, kept: int) -> Prefix:
    """The context, (L,) ids, as `kept` positions with the smallest key norms."""
    prefix = Prefix.read(reader, ids)
    return _pruned(prefix, kept, lambda keys, _: -keys.norm(dim=-1))


def by_attention(reader: Reader, ids: Tensor, kept: int) -> Prefix:
    """The context as the last tokens and the positions that those attend to most, `kept` in all."""
    window = min(WINDOW, kept // 2, len(ids) - 1)
    prefix, attentions = _read_with_attention(reader, ids, window)

    def score(keys: Tensor, layer: int) -> Tensor:
        weights = attentions[layer][0, :, :, :-window].mean(dim=1)  # (H, L - window)
        smooth = functional.avg_pool1d(weights.float(), KERNEL, stride=1, padding=KERNEL // 2)
        grouped = smooth.view(keys.shape[1], -1, smooth.shape[-1]).mean(dim=1)  # (key-value heads, L - window)
        return functional.pad(grouped, (0, window), value=float("inf"))[None]

    return _pruned(prefix, kept, score)


@torch.inference_mode()
def _read_with_attention(reader: Reader, ids: Tensor, window: int) -> tuple[Prefix, tuple[Tensor, ...]]:
    """The whole context read, and the attention of its last tokens in each layer, (1, H, window, L)."""
    model, base = reader.model, reader.model.base
    head = Prefix.read(reader, ids[:-window])
    implementation = base.config._attn_implementation
    base.set_attn_implementation("eager")  # the only one that tells its weights
    try:
        with model.reads_vectors(has_vectors=False):
            output = base.base_model(
                inputs_embeds=model.embed(ids[None, -window:].to(model.device)),
                attention_mask=torch.ones(1, len(ids), dtype=torch.long, device=model.device),
                position_ids=torch.arange(len(ids) - window, len(ids), device=model.device)[None],
                past_key_values=head.cache,
                use_cache=True,
                output_attentions=True,
            )
    finally:
        base.set_attn_implementation(implementation)
    return Prefix(reader, output.past_key_values, 0, len(ids)), output.attentions


@torch.inference_mode()
def _pruned(prefix: Prefix, kept: int, score: Callable[[Tensor, int], Tensor]) -> Prefix:
    """The prefix with the `kept` best positions of each layer and head, in their order.

    Args:
        score: of keys (1, heads, L, D) of a layer by its number, (1, heads, L).
    """
    for number, layer in enumerate(prefix.cache.layers):
        best = score(layer.keys, number).topk(kept, dim=-1).indices.sort(dim=-1).values  # (1, heads, kept)
        layer.keys, layer.values = (_at(each, best) for each in (layer.keys, layer.values))
    return Prefix(prefix.reader, prefix.cache, 0, prefix.num_tokens, num_cached=kept)


def _at(each: Tensor, places: Tensor) -> Tensor:
    return each.gather(2, places[..., None].expand(-1, -1, -1, each.shape[-1]))


def cache_bytes(model: AutoCompressor, num_positions: int) -> int:
    """Of the keys and values of so many positions, in the model's own format."""
    layers: int = model.base.config.num_hidden_layers
    return 2 * layers * DecoderShape.of(model).kv_width * num_positions * model.dtype.itemsize
