"""Planted facts: they stand in the text where they should, and the right end is found by loss."""

import json
from pathlib import Path
from random import Random

import pytest
import torch

from tests.training.bench import SEGMENT, anchored_compressor, cell, compressor, options_of
from training.bench.planting import KINDS, facts, planted
from training.bench.prefix import Prefix
from training.bench.reader import Reader
from training.bench.suites import recall
from training.bench.suites.recall import CHOICES, Choice

LONG = 160  # tokens of a segment: three facts of the tiny vocabulary have some 40 each


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_ends_of_a_fact_are_of_its_kind_and_differ(kind) -> None:  # type: ignore[no-untyped-def]
    found = facts(kind, 4, CHOICES, Random(0))
    assert len({fact.cue for fact in found}) == 4
    for fact in found:
        ends = [fact.answer, *fact.others]
        assert len(set(ends)) == len(ends) == CHOICES
        assert fact.sentence.startswith(fact.cue + fact.answer)
        assert {other.answer for other in found if other is not fact} <= set(fact.others)
        assert len({len(end.split()) for end in ends}) == 1


def test_pieces_stand_whole_where_sentences_end() -> None:
    ids, pieces = list(range(100, 120)), [[1, 2], [3]]
    made = planted(ids, pieces, [4, 9, 20], Random(0))
    assert len(made) == 20
    assert made.index(2) == made.index(1) + 1
    assert {made[made.index(first) - 1] for first in (1, 3)} <= {103, 108, 2}  # after a break, or after the other piece
    text = [token for token in made if token >= 100]
    assert text == ids[: len(text)]
    with pytest.raises(ValueError, match="20 tokens to plant do not fit a segment of 20"):
        planted(ids, [list(range(20))], [], Random(0))


@pytest.fixture
def reader() -> Reader:
    return Reader.of(anchored_compressor(8, LONG))


def window(reader: Reader, num_segments: int) -> torch.Tensor:
    text = "The white cat liked the stove. The inspector disliked stairs, and ships came. " * 80
    ids = reader.encode(text)[: num_segments * LONG + recall.GAP]
    assert len(ids) == num_segments * LONG + recall.GAP
    return torch.tensor(ids)


def test_facts_stand_in_the_segment_at_their_distance(reader: Reader) -> None:
    tokens = window(reader, 4)
    text = recall.plant(reader, tokens, [1, 2, 4], Random(3))
    assert text.ids.shape == (4, LONG)
    assert torch.equal(text.ids[1], tokens[LONG : 2 * LONG])  # three segments back, where nothing is planted
    assert torch.equal(text.gap, tokens[-recall.GAP :])
    for fact, distance in text.facts:
        assert fact.sentence in reader.decode(text.ids[-distance])
    assert [distance for _, distance in text.facts] == [1] * 3 + [2] * 3 + [4] * 3
    again = recall.plant(reader, tokens, [1, 2, 4], Random(3))
    assert torch.equal(again.ids, text.ids)


def test_every_form_is_asked_for_every_fact(reader: Reader) -> None:
    text = recall.plant(reader, window(reader, 2), [1, 2], Random(0))
    asked = {
        form: sorted(fact.cue for f, _, held in recall.prefixes(reader, text) if f == form for fact, _ in held)
        for form in recall.FORMS
    }
    assert all(cues == sorted(fact.cue for fact, _ in text.facts) for cues in asked.values())


def test_the_right_end_is_the_one_that_the_model_is_told(reader: Reader) -> None:
    """Losses of ends do not depend on being scored together; the least mean wins."""
    assert recall.is_chosen([torch.tensor([1.0, 1.0]), torch.tensor([1.2]), torch.tensor([3.0, 0.0])])
    assert not recall.is_chosen([torch.tensor([1.0]), torch.tensor([1.0])])
    (fact, *_) = facts(KINDS[0], 2, CHOICES, Random(0))
    endings = recall.endings(reader, fact)
    prefix = Prefix.read(reader, window(reader, 1))
    together = prefix.losses(endings)
    assert together is not None
    alone = [(prefix.losses([ending]) or [])[0] for ending in endings]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


def test_accuracy_and_share_by_hand() -> None:
    """Two documents of four choices each: full 4 and 3 right, vectors 2 and 1."""
    found = [
        Choice(document, "name", 1, form, number < right)
        for form, rights in ((recall.FULL, (4, 3)), (recall.VECTORS, (2, 1)))
        for document, right in zip(("a", "b"), rights, strict=True)
        for number in range(4)
    ]
    accuracy, share = recall.accuracy(found, recall.VECTORS), recall.share_of_full(found, recall.VECTORS, None, None)
    assert accuracy is not None
    assert share is not None
    assert accuracy.value == pytest.approx(3 / 8)
    assert share.value == pytest.approx((3 / 8 - 1 / 8) / (7 / 8 - 1 / 8))
    assert recall.accuracy(found, recall.NONE) is None
    assert recall.share_of_full(found, recall.VECTORS, "number", None) is None


def test_the_suite_s_table_follows_from_its_choices(
    reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recall, "DISTANCES", (1, 2))
    options = options_of("recall", tmp_path, samples=1)
    recall.run(reader, options).write(options)
    found = json.loads((options.out / "recall.json").read_text())
    choices = found["measured"]["choices"]
    assert len(choices) == 2 * 2 * 3 * len(recall.FORMS)
    rights = [right for _, kind, distance, form, right in choices if (kind, distance, form) == ("number", 2, "vectors")]
    assert cell(found["tables"][0], "vectors", kind="number", segments_back="2")["value"] == pytest.approx(
        sum(rights) / len(rights)
    )


def test_a_model_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="no segment of 16 tokens fits 2048 positions as vectors"):
        recall.distances_for(Reader.of(compressor(summary_length=0)))
    assert recall.distances_for(Reader.of(compressor())) == [1, 2, 4, 8]
    assert SEGMENT == 16
