"""What the objectives back-propagate: which steps gradients cross, what each segment is conditioned on, and memory."""

import weakref
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from model import AutoCompressor
from tests.tiny import random_ids, tiny_compressor, tiny_recipe
from training.objectives.cross_entropy import LanguageModelling, Segments
from training.objectives.objective import Objective, Substep
from training.recipes.recipe import Compression

Gradients = dict[str, Tensor]


def compression(**changes: Any) -> Compression:
    return replace(tiny_recipe().compression, **changes)


def backward(objective: Objective, model: nn.Module, batch: Tensor, *, step: int = 0) -> list[Substep]:
    """Back-propagate a batch, from gradients of zero; each substep's loss, without its graph."""
    model.zero_grad()
    substeps = []
    for substep in objective.substeps(model, batch, step=step):
        substep.loss.backward()
        substeps.append(Substep(substep.loss.detach(), substep.segment_losses))
    return substeps


def gradients_of(model: nn.Module) -> Gradients:
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


def difference(one: Gradients, other: Gradients) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).norm() / one[name].norm()) for name in one)


def cut_losses(logits: Tensor, tokens: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def by_hand(
    model: AutoCompressor, batch: Tensor, lengths: Sequence[Sequence[int]], *, is_detached: bool = True
) -> tuple[Gradients, list[float]]:
    """Segment by segment with `compress`: one loss, one backward pass; the loss of each substep."""
    model.zero_grad()
    soft_prompt, losses = model.empty_soft_prompt(batch.shape[0]), []
    for tokens, cut in zip(batch.split([sum(cut) for cut in lengths], dim=1), lengths, strict=True):
        logits = []
        for segment in tokens.split(list(cut), dim=1):
            logits.append(model(segment, soft_prompt=soft_prompt).logits)
            vectors = model.compress(segment, soft_prompt=soft_prompt)
            soft_prompt = torch.cat([soft_prompt, vectors], dim=1) if model.accumulate_summary else vectors
        losses.append(cut_losses(torch.cat(logits, dim=1), tokens))
        if is_detached:
            soft_prompt = soft_prompt.detach()
    torch.stack(losses).sum().backward()
    return gradients_of(model), torch.stack(losses).tolist()


def drawn(objective: Segments, num_tokens: int, *, step: int = 0) -> list[list[int]]:
    slice_tokens = num_tokens // objective.num_substeps
    return [objective.draw(slice_tokens, step=step, substep=index) for index in range(objective.num_substeps)]


# --- which compression steps gradients cross


@pytest.mark.parametrize("accumulate_summary", [True, False], ids=["autocompressor", "rmt"])
def test_gradients_stop_between_substeps(accumulate_summary: bool) -> None:
    """RMT's soft prompt is replaced and not extended: by hand, only the newest vectors are handed on."""
    model = tiny_compressor(summary_length=3, accumulate_summary=accumulate_summary)
    batch = random_ids(2, 64)
    objective = Segments(compression(method="autocompressor" if accumulate_summary else "rmt"), seed=0)
    losses = [float(substep.loss) for substep in backward(objective, model, batch)]
    actual = gradients_of(model)
    lengths = drawn(objective, 64)
    detached, expected = by_hand(model, batch, lengths)
    assert losses == pytest.approx(expected, abs=1e-5)
    assert difference(detached, actual) < 1e-4
    through, _ = by_hand(model, batch, lengths, is_detached=False)
    assert difference(through, actual) > 1e-2


def test_without_a_stop_gradients_cross_every_segment() -> None:
    model, batch = tiny_compressor(summary_length=3), random_ids(2, 64)
    objective = Segments(compression(substeps=1, segments_per_substep=4), seed=0)
    (substep,) = backward(objective, model, batch)
    actual = gradients_of(model)
    expected, (loss,) = by_hand(model, batch, drawn(objective, 64), is_detached=False)
    assert float(substep.loss) == pytest.approx(loss, abs=1e-5)
    assert difference(expected, actual) < 1e-4


@pytest.mark.parametrize("segments_per_substep", [1, 2, 3])
def test_gradients_cross_the_compression_steps_of_one_substep(segments_per_substep: int) -> None:
    """The summary vectors of a substep's last segment wait for the next one, which gets them detached."""
    model, made = tiny_compressor(summary_length=3), []
    run_segment = model.run_segment

    def watch(*args: Tensor, is_compressed: bool) -> tuple[Tensor, Tensor]:
        hidden, vectors = run_segment(*args, is_compressed=is_compressed)
        vectors.retain_grad()
        made.append(vectors)
        return hidden, vectors

    model.run_segment = watch
    settings = compression(segments_per_substep=segments_per_substep, max_segment_tokens=32)
    backward(Segments(settings, seed=0), model, random_ids(1, 64))
    learns = [vectors.grad is not None and bool(vectors.grad.norm() > 0) for vectors in made]
    one_substep = [True] * (segments_per_substep - 1) + [False]
    assert learns == one_substep * 2
    assert [vectors.shape[1] for vectors in made] == [3] * (len(made) - 1) + [0]  # nobody needs the last summary


def test_the_substep_after_is_conditioned_on_the_one_before() -> None:
    """Detached is not forgotten: other tokens in the first substep change the loss of the second."""
    model, batch, objective = tiny_compressor(summary_length=3), random_ids(1, 64), Segments(compression(), seed=0)
    before = backward(objective, model, batch)
    batch[:, :32] = random_ids(1, 32, seed=1)
    after = backward(objective, model, batch)
    assert abs(before[1].loss - after[1].loss) > 1e-3


# --- the other methods


def test_without_context_each_segment_stands_alone() -> None:
    model, batch = tiny_compressor(summary_length=0), random_ids(2, 64)
    objective = Segments(compression(method="no-context", summary_length=0), seed=0)
    substeps = backward(objective, model, batch)
    actual = gradients_of(model)
    model.zero_grad()
    losses = []
    for tokens, cut in zip(batch.split(32, dim=1), drawn(objective, 64), strict=True):
        alone = [cut_losses(model.base(segment).logits, segment) for segment in tokens.split(cut, dim=1)]
        weights = torch.tensor([length - 1.0 for length in cut])
        losses.append((torch.stack(alone) * weights).sum() / weights.sum())
        torch.testing.assert_close(substeps[len(losses) - 1].segment_losses, torch.stack(alone).detach())
    torch.stack(losses).sum().backward()
    assert [float(substep.loss) for substep in substeps] == pytest.approx(torch.stack(losses).tolist(), abs=1e-5)
    assert difference(gradients_of(model), actual) < 1e-4


def test_full_attention_reads_equal_pieces_whole() -> None:
    model, batch = tiny_compressor(summary_length=0), random_ids(2, 63)
    substeps = backward(LanguageModelling(2), model, batch)
    with torch.no_grad():
        expected = [
            float(cut_losses(model.base(piece).logits, piece).detach()) for piece in batch.split([32, 31], dim=1)
        ]
    assert [float(substep.loss) for substep in substeps] == pytest.approx(expected, abs=1e-5)
    assert [float(substep.segment_losses) for substep in substeps] == pytest.approx(expected, abs=1e-5)
    assert model.base.lm_head.weight.grad is not None


# --- lengths


def test_fixed_lengths_are_equal() -> None:
    objective = Segments(compression(is_randomised=False), seed=0)
    assert {tuple(objective.draw(33, step=step, substep=1)) for step in range(5)} == {(17, 16)}


def test_the_draw_depends_on_seed_step_and_substep_alone() -> None:
    def draws(seed: int) -> list[list[list[int]]]:
        objective = Segments(compression(), seed=seed)
        return [drawn(objective, 64, step=step) for step in (0, 1, 2)]

    torch.manual_seed(0)
    first = draws(0)
    torch.manual_seed(1)
    assert draws(0) == first
    assert Segments(compression(), seed=0).draw(32, step=2, substep=1) == first[2][1]  # none drawn before it
    assert draws(1) != first
    assert all(one != other for one, other in pairwise(first))
    assert first[0][0] != first[0][1]


def test_the_batch_is_cut_as_drawn() -> None:
    model, seen, objective = tiny_compressor(summary_length=3), [], Segments(compression(), seed=0)
    run_segment = model.run_segment

    def watch(input_ids: Tensor, *args: Tensor, is_compressed: bool) -> tuple[Tensor, Tensor]:
        seen.append(input_ids.shape[1])
        return run_segment(input_ids, *args, is_compressed=is_compressed)

    model.run_segment = watch
    backward(objective, model, random_ids(1, 64), step=7)
    assert seen == [length for cut in drawn(objective, 64, step=7) for length in cut]


# --- losses by segment


def test_segment_losses_belong_to_their_segments() -> None:
    """The first token of a segment counts to it; that of a substep has no loss."""
    model, batch, objective = tiny_compressor(summary_length=3), random_ids(2, 64), Segments(compression(), seed=0)
    substeps = backward(objective, model, batch)
    soft_prompt = None
    for tokens, cut, substep in zip(batch.split(32, dim=1), drawn(objective, 64), substeps, strict=True):
        with torch.no_grad():
            output = model(tokens, segment_lengths=cut, soft_prompt=soft_prompt, output_soft_prompt=True)
        soft_prompt = output.soft_prompt
        of_tokens = -output.logits.log_softmax(dim=2)[:, :-1].gather(2, tokens[:, 1:, None])[..., 0]  # (B, L - 1)
        of_first, of_second = of_tokens[:, : cut[0] - 1], of_tokens[:, cut[0] - 1 :]
        expected = torch.stack([of_first.mean(), of_second.mean()])
        torch.testing.assert_close(substep.segment_losses, expected, rtol=0, atol=1e-5)
        weights = torch.tensor([cut[0] - 1.0, cut[1]])
        assert float(substep.loss) == pytest.approx(float((expected * weights).sum() / weights.sum()), abs=1e-5)


# --- memory and precision


class LiveBytes(TorchDispatchMode):
    """The most bytes that tensors made in this mode have taken together."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._present = 0
        self._living: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(output):
            if isinstance(leaf, Tensor):
                self._note(leaf.untyped_storage())
        return output

    def _note(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self._living:
            return
        self._living.add(storage._cdata)
        self._present += storage.nbytes()
        self.peak = max(self.peak, self._present)
        weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())

    def _forget(self, key: int, num_bytes: int) -> None:
        self._living.discard(key)
        self._present -= num_bytes


def peak_bytes(model: AutoCompressor, settings: Compression, *, num_tokens: int) -> int:
    batch, objective = random_ids(1, num_tokens), Segments(settings, seed=0)
    backward(objective, model, batch)  # gradients are there from now on, and do not count
    with LiveBytes() as live:
        backward(objective, model, batch)
    return live.peak


def test_memory_does_not_grow_with_the_sequence() -> None:
    """With a stop of gradients it grows by the soft prompt alone; without, by every segment."""
    model = tiny_compressor(summary_length=1, max_positions=256)
    settings = compression(summary_length=1, is_randomised=False, max_segment_tokens=96)
    stopped, whole = [], []
    for num_segments in (4, 8, 20):
        two_each = replace(settings, substeps=num_segments // 2, segments_per_substep=2)
        stopped.append(peak_bytes(model, two_each, num_tokens=96 * num_segments))
        all_in_one = replace(settings, substeps=1, segments_per_substep=num_segments)
        whole.append(peak_bytes(model, all_in_one, num_tokens=96 * num_segments))
    assert stopped[1] < 1.1 * stopped[0]
    assert stopped[2] < 1.3 * stopped[0]
    assert whole[1] > 1.8 * whole[0]
    assert whole[2] > 4.5 * whole[0]


def test_segments_computed_again_give_the_same_gradients_and_keep_less() -> None:
    model, batch = tiny_compressor(summary_length=3), random_ids(2, 96)
    settings = compression(substeps=1, segments_per_substep=4, is_randomised=False)
    objective = Segments(settings, seed=0)
    kept_losses = backward(objective, model, batch)[0].segment_losses
    kept = gradients_of(model)
    kept_bytes = peak_bytes(model, settings, num_tokens=96)
    model.segment_gradient_checkpointing = True
    again_losses = backward(objective, model, batch)[0].segment_losses
    torch.testing.assert_close(again_losses, kept_losses, rtol=0, atol=1e-6)
    assert difference(kept, gradients_of(model)) < 1e-5
    assert peak_bytes(model, settings, num_tokens=96) < 0.7 * kept_bytes


def test_segments_computed_again_drop_out_the_same() -> None:
    """Dropout's random state is that of the first time."""
    model, batch = tiny_compressor(summary_length=3), random_ids(2, 64)
    for layer in model.base.model.layers:
        layer.mlp.down_proj = nn.Sequential(layer.mlp.down_proj, nn.Dropout(0.5))
    model.train()
    gradients = []
    for is_checkpointed in (False, True):
        model.segment_gradient_checkpointing = is_checkpointed
        torch.manual_seed(0)
        backward(Segments(compression(substeps=1, segments_per_substep=4), seed=0), model, batch)
        gradients.append(gradients_of(model))
    assert difference(*gradients) < 1e-5


def test_bfloat16_gradients_are_those_of_float32() -> None:
    model, batch = tiny_compressor(summary_length=3), random_ids(2, 64)
    found = []
    for context in (nullcontext(), torch.autocast("cpu", torch.bfloat16)):
        with context:
            losses = [float(substep.loss) for substep in backward(Segments(compression(), seed=0), model, batch)]
        found.append((losses, gradients_of(model)))
    (losses, exact), (rough_losses, rough) = found
    assert {gradient.dtype for gradient in rough.values()} == {torch.float32}
    assert rough_losses == pytest.approx(losses, rel=1e-2)
    assert 1e-4 < difference(exact, rough) < 0.2
