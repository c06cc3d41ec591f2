"""The order of training: all sequences once an epoch, sources by weight, any step known without those before."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from training.data.batches import Batches, Part
from training.data.documents import TokenisedDocuments

LENGTH = 8
NUM_STEPS = 50
BATCH = 4


def documents(name: str, lengths: list[int], *, first: int = 0) -> TokenisedDocuments:
    """Documents of which no two tokens are alike, so a sequence is known by its first one."""
    starts = np.cumsum([0, *lengths])
    return TokenisedDocuments(np.arange(first, first + starts[-1], dtype=np.uint16), starts, name)


def one_source() -> list[Part]:
    """Two files of 6 + 0 + 1 and 3 sequences."""
    return [Part([documents("a", [50, 7, 8]), documents("b", [3, 31], first=1000)])]


def two_sources() -> list[Part]:
    """6 and 10 sequences, the second drawn twice as often as the first."""
    first = [documents("a", [40, 13])]
    second = [documents("b", [9, 40], first=1000), documents("c", [34], first=2000)]
    return [Part(first, 1.0), Part(second, 2.0)]


def batches(parts: list[Part], *, num_steps: int = NUM_STEPS, seed: int = 3, batch_sequences: int = BATCH) -> Batches:
    return Batches(parts, sequence_tokens=LENGTH, batch_sequences=batch_sequences, num_steps=num_steps, seed=seed)


def firsts(order: Batches, num_steps: int = NUM_STEPS) -> list[int]:
    """The first tokens of all sequences in the order of training."""
    return [token for step in range(num_steps) for token in order.batch(step)[:, 0].tolist()]


def epochs(drawn: list[int], size: int) -> list[list[int]]:
    """All whole ones."""
    return [drawn[start : start + size] for start in range(0, len(drawn) - size + 1, size)]


# --- epochs


def test_an_epoch_is_each_sequence_once_in_an_order_of_its_own() -> None:
    """Ten sequences in batches of four: epochs begin within batches."""
    order = batches(one_source())
    assert order.num_sequences == 10
    rounds = epochs(firsts(order), 10)
    assert len(rounds) == 20
    for one in rounds:
        assert sorted(one) == [0, 8, 16, 24, 32, 40, 57, 1003, 1011, 1019]
    assert all(one != other for one, other in pairwise(rounds))


def test_each_source_has_epochs_of_its_own() -> None:
    order = batches(two_sources())
    assert order.num_sequences == 16
    drawn = firsts(order)
    of_first = epochs([token for token in drawn if token < 1000], 6)
    of_second = epochs([token for token in drawn if token >= 1000], 10)
    assert len(of_first) > 5 < len(of_second)
    assert all(sorted(one) == [0, 8, 16, 24, 32, 40] for one in of_first)
    second = [1000, 1009, 1017, 1025, 1033, 1041, 2000, 2008, 2016, 2024]
    assert all(sorted(one) == second for one in of_second)


def test_sequences_are_runs_of_one_document() -> None:
    order = batches(one_source())
    for step in range(10):
        batch = order.batch(step)
        assert (batch.dtype, batch.shape) == (torch.int64, (BATCH, LENGTH))
        assert torch.equal(batch - batch[:, :1], torch.arange(LENGTH).expand(BATCH, -1))


# --- what the order depends on


@pytest.mark.parametrize("parts", [one_source(), two_sources()], ids=["one", "two"])
def test_the_seed_decides(parts: list[Part]) -> None:
    order = firsts(batches(parts, seed=3))
    assert order == firsts(batches(parts, seed=3))
    assert order != firsts(batches(parts, seed=4))


def test_a_step_does_not_depend_on_those_before() -> None:
    def whole(order: Batches, steps: range) -> dict[int, Tensor]:
        return {step: order.batch(step) for step in steps}

    forwards = whole(batches(two_sources()), range(NUM_STEPS))
    backwards = whole(batches(two_sources()), range(NUM_STEPS)[::-1])
    assert all(torch.equal(forwards[step], backwards[step]) for step in range(NUM_STEPS))
    assert torch.equal(batches(two_sources()).batch(37), forwards[37])


def test_a_longer_run_begins_like_a_shorter_one() -> None:
    assert firsts(batches(two_sources(), num_steps=500)) == firsts(batches(two_sources()))


@pytest.mark.parametrize("num_processes", [2, 3, 4])
def test_processes_share_a_batch(num_processes: int) -> None:
    order = batches(two_sources())
    bounds = [process * BATCH // num_processes for process in range(num_processes + 1)]
    rows = [slice(start, end) for start, end in pairwise(bounds)]
    for step in range(10):
        assert torch.equal(torch.cat([order.batch(step, part) for part in rows]), order.batch(step))
        assert [name for part in rows for name in order.names(step, part)] == order.names(step)


def test_the_order_of_a_seed_stays() -> None:
    """A run that is resumed by a later version must go on with the sequences that it has not seen."""
    parts = [
        Part([documents("a", [40, 13])], 1.0),
        Part([documents("b", [9, 40], first=1000), documents("c", [25], first=2000)], 2.0),
    ]
    assert epochs(firsts(batches(parts), 5), 4) == [
        [8, 16, 2000, 1041],
        [0, 1025, 1009, 32],
        [1017, 40, 1000, 2008],
        [1033, 2016, 2000, 1025],
        [24, 2008, 1009, 24],
    ]


# --- weights


def shares(parts: list[Part], num_steps: int = 1000) -> list[float]:
    """How often each of the sources was drawn; their tokens are in different thousands."""
    counts = Counter(token // 1000 for token in firsts(batches(parts, num_steps=num_steps), num_steps))
    return [counts[source] / (num_steps * BATCH) for source in range(len(parts))]


def test_sources_are_drawn_by_weight() -> None:
    sizes = [(16, 1.0), (400, 2.0), (64, 5.0)]
    parts = [Part([documents("x", [size], first=1000 * i)], weight) for i, (size, weight) in enumerate(sizes)]
    # of 4000 draws, four standard deviations of a share of a half are 0.032
    assert shares(parts) == pytest.approx([1 / 8, 2 / 8, 5 / 8], abs=0.032)


def test_sources_without_weights_are_drawn_by_their_share_of_sequences() -> None:
    parts = [Part([documents("x", [size], first=1000 * i)]) for i, size in enumerate([80, 240, 480])]
    assert shares(parts) == pytest.approx([0.1, 0.3, 0.6], abs=0.032)


# --- what is refused


def test_all_sources_have_a_weight_or_none() -> None:
    parts = [Part([documents("a", [80])], 1.0), Part([documents("b", [80])]), Part([documents("c", [80])])]
    with pytest.raises(ValueError, match="1 of 3 sources have a weight"):
        batches(parts)


def test_a_source_without_a_sequence_is_named() -> None:
    parts = [Part([documents("a", [80])]), Part([documents("b", [7, 7]), documents("c", [])])]
    with pytest.raises(ValueError, match="no document in b, c has the 8 tokens"):
        batches(parts)


def test_a_batch_that_the_documents_do_not_fill() -> None:
    assert batches(one_source(), batch_sequences=10).num_sequences == 10
    with pytest.raises(ValueError, match="the documents hold 10 runs of 8 tokens; a batch needs 11"):
        batches(one_source(), batch_sequences=11)


# --- names


def test_a_name_leads_to_the_tokens() -> None:
    files = {file.name: file for part in two_sources() for file in part.documents}
    order = batches(two_sources())
    for step in range(NUM_STEPS):
        for name, row in zip(order.names(step), order.batch(step), strict=True):
            file, _, document, _, token = name.split()
            start = files[file].starts[int(document) - 1] + int(token)
            assert start + LENGTH <= files[file].starts[int(document)]
            assert files[file].run(start, LENGTH).tolist() == row.tolist()


def test_names_of_documents_after_an_empty_one() -> None:
    """A text of no tokens, where the tokenizer has no start token, begins where the next document does."""
    order = batches([Part([documents("a", [8, 0, 8])])], batch_sequences=2, num_steps=1)
    assert sorted(order.names(0)) == ["a document 1 token 0", "a document 3 token 0"]
