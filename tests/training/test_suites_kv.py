"""Keys and values of a context: the ones that are kept, and what is read after them."""

import pytest
import torch

from tests.tiny import random_ids
from tests.training.bench import compressor
from training.bench.prefix import Ending, Prefix
from training.bench.reader import Reader
from training.bench.rivals.kv_selection import by_attention, by_key_norm, cache_bytes

SELECTIONS = pytest.mark.parametrize("select", [by_key_norm, by_attention])


@SELECTIONS
def test_all_kept_is_the_whole_context(select) -> None:  # type: ignore[no-untyped-def]
    reader = Reader.of(compressor())
    ids, ending = random_ids(1, 40)[0], Ending(random_ids(1, 9, seed=1)[0].tolist(), 6)
    (whole,) = Prefix.read(reader, ids).losses([ending]) or []
    (kept,) = select(reader, ids, 40).losses([ending]) or []
    (fewer,) = select(reader, ids, 12).losses([ending]) or []
    torch.testing.assert_close(kept, whole, rtol=0, atol=1e-4)
    assert not torch.allclose(fewer, whole, atol=1e-2)
    assert reader.model.base.config._attn_implementation == "sdpa"


def test_the_smallest_norms_are_kept_in_their_order() -> None:
    reader, ids = Reader.of(compressor()), random_ids(1, 40)[0]
    whole, kept = Prefix.read(reader, ids).cache.layers[1], by_key_norm(reader, ids, 10).cache.layers[1]
    for head in range(whole.keys.shape[1]):
        places = whole.keys[0, head].norm(dim=-1).argsort()[:10].sort().values
        assert torch.equal(kept.keys[0, head], whole.keys[0, head, places])
        assert torch.equal(kept.values[0, head], whole.values[0, head, places])


def test_the_last_tokens_and_what_they_attend_to_are_kept() -> None:
    reader, ids = Reader.of(compressor()), random_ids(1, 40)[0]
    whole, kept = Prefix.read(reader, ids).cache.layers[0], by_attention(reader, ids, 10).cache.layers[0]
    torch.testing.assert_close(kept.keys[:, :, -5:], whole.keys[:, :, -5:], rtol=0, atol=1e-5)
    distances = (kept.keys[0, 0, :, None] - whole.keys[0, 0]).abs().amax(dim=-1)
    places = distances.argmin(dim=1)
    assert distances.amin(dim=1).max() < 1e-5
    assert places.tolist() == sorted(set(places.tolist()))


def test_positions_after_a_selection_go_on_from_the_whole_context() -> None:
    reader, ids = Reader.of(compressor()), random_ids(1, 40)[0]
    assert by_key_norm(reader, ids, 10).num_tokens == 40


def test_bytes_by_hand() -> None:
    """Two layers of two key-value heads of eight, keys and values, float32."""
    assert cache_bytes(compressor(), 10) == 2 * 2 * 2 * 8 * 10 * 4
