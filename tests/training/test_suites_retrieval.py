"""Retrieved passages: never the text itself, in the order of their worth, mixed as probabilities."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny import TEXT
from tests.training.bench import SEGMENT, VECTORS, anchored_compressor, cell, compressor, corpus, options_of
from training.bench.drawing import drawn, places
from training.bench.reader import Reader
from training.bench.suites import retrieval
from training.bench.suites.retrieval import QUERY, SCORED, Measured, Store
from training.data.documents import TokenisedDocuments
from training.evaluation.intervals import Estimate
from training.evaluation.scores import DocumentScore


def documents_of(reader: Reader, num_repeats: int = 12) -> TokenisedDocuments:
    ids = [reader.encode(TEXT * num_repeats), reader.encode(TEXT[::-1] * num_repeats)]
    return TokenisedDocuments(np.array([*ids[0], *ids[1]], np.uint16), np.cumsum([0, *map(len, ids)]))


def test_places_are_where_the_windows_begin() -> None:
    documents = documents_of(Reader.of(compressor()))
    windows, found = drawn(documents, 50, 6, seed=2), places(documents, 50, 6, seed=2)
    assert windows is not None
    for tokens, document, (number, place) in zip(windows.tokens, windows.documents, found, strict=True):
        assert document == number
        assert documents.run(place, 50).tolist() == tokens.tolist()


def test_a_text_is_not_found_for_itself() -> None:
    reader = Reader.of(compressor())
    documents = documents_of(reader)
    store = Store.of(reader, documents)
    for start in (0, 5, 3 * SEGMENT):
        own = range(start, start + 2 * SEGMENT)
        text = reader.decode(torch.from_numpy(documents.run(start, 2 * SEGMENT)))
        found = store.best(text, own, 4)
        assert len(found) == 4
        chosen = [int((store.ids == passage).all(dim=1).nonzero()[0]) for passage in found]
        overlapping = {n for n, at in enumerate(store.starts) if at < own.stop and at + SEGMENT > own.start}
        assert overlapping
        kept = [n for n in store.passages.best(text, 40) if n not in overlapping][:4]
        assert torch.equal(found, store.ids[kept])
        assert len(chosen) == 4


def test_a_mixture_is_the_mean_of_probabilities() -> None:
    losses = torch.tensor([[0.0, math.log(4)], [math.log(2), math.log(2)]])
    torch.testing.assert_close(retrieval.mixture(losses), -torch.tensor([0.75, 0.375]).log())
    torch.testing.assert_close(retrieval.mixture(losses[:1]), losses[0])


def test_a_gain_of_perplexity_by_hand() -> None:
    scores = {"none": [DocumentScore(0, 3.0, 1)], "better": [DocumentScore(0, 3.0 - math.log(2), 1)]}
    halved = retrieval.perplexity_gain(scores, "better")
    assert isinstance(halved, Estimate)
    assert halved.value == pytest.approx(0.5)
    assert retrieval.perplexity_gain(scores, "absent") is None


@torch.no_grad()
def test_every_form_is_what_it_says() -> None:
    reader = Reader.of(anchored_compressor())
    documents = documents_of(reader)
    store, into = Store.of(reader, documents), Measured()
    start = 100
    tokens = torch.from_numpy(documents.run(start, QUERY + SCORED))
    own = range(start, start + QUERY + SCORED)
    retrieval.measure(reader, store, tokens, own, into)
    first, second, third = store.best(reader.decode(tokens[:QUERY]), own, 3)
    vectors = {n: reader.summaries(p[None])[0][0].vectors for n, p in enumerate((first, second, third))}
    fused = torch.cat([vectors[2], vectors[1], vectors[0]])[None]
    short = torch.cat([third[:VECTORS], second[:VECTORS], first[:VECTORS], tokens])[None]
    alone = reader.losses(torch.stack([torch.cat([each, tokens]) for each in (first, second, third)]), SCORED)
    assert alone is not None
    expected = {
        "none": reader.losses(tokens[None], SCORED),
        retrieval.named(retrieval.FUSED, 3): reader.losses(tokens[None], SCORED, fused),
        retrieval.named(retrieval.SHORT_TOGETHER, 3): reader.losses(short, SCORED),
        retrieval.named(retrieval.WHOLE_ALONE, 3): retrieval.mixture(alone),
    }
    for name, losses in expected.items():
        assert losses is not None
        assert into.losses[name] == [pytest.approx(losses.sum().item(), rel=1e-4)]
    assert len(into.losses) == 1 + len(retrieval.FORMS) * len(retrieval.TOPS)


def test_the_suite_s_table_follows_from_its_sums(tmp_path: Path) -> None:
    options = options_of("retrieval", tmp_path, samples=2, data=corpus(tmp_path / "data", num_sentences=40))
    retrieval.run(Reader.of(compressor()), options).write(options)
    found = json.loads((options.out / "retrieval.json").read_text())
    sums = found["measured"]["documents"]["law"]
    means = {name: sum(row[1] for row in rows) / sum(row[2] for row in rows) for name, rows in sums.items()}
    gained = cell(found["tables"][0], "top 3", domain="law", form=retrieval.FUSED)
    assert gained["value"] == pytest.approx(1 - math.exp(means["fused summaries, 3"] - means["none"]))
    assert all(row[1] for row in found["tables"][1]["rows"])
    with pytest.raises(ValueError, match="a segment of 16 tokens has no summary that fits the model"):
        retrieval.run(Reader.of(compressor(summary_length=0)), options)
