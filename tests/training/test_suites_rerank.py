"""Passages in the order of a question: places by hand, scores as the model gives them."""

import json
from pathlib import Path

import pytest
import torch

from tests.training.bench import anchored_compressor, cell, compressor, options_of, write_jsonl
from training.bench.questions import Paragraph, Question, read_paragraphs
from training.bench.reader import Reader
from training.bench.suites import rerank
from training.bench.suites.rerank import Query

PARAGRAPHS = [
    Paragraph(
        f"The {thing} of the keeper is {colour}, and it was bought in the winter of {year}.",
        (Question(f"What colour has the {thing}?", colour), Question(f"When was the {thing} bought?", str(year))),
    )
    for thing, colour, year in (("lantern", "red", 1801), ("ladder", "white", 1822), ("chart", "green", 1843))
]


def test_every_paragraph_is_asked_once_before_any_twice() -> None:
    queries = rerank.queries_of(PARAGRAPHS, 5, seed=1)
    assert sorted(query.paragraph for query in queries[:3]) == [0, 1, 2]
    assert len({query.text for query in queries}) == 5
    assert queries == rerank.queries_of(PARAGRAPHS, 5, seed=1) != rerank.queries_of(PARAGRAPHS, 5, seed=2)


def test_recall_and_reciprocal_rank_by_hand() -> None:
    queries = [Query("", paragraph) for paragraph in (0, 0, 1, 2)]
    places = [1, 4, None, 21]
    assert [rerank.recall(places, queries, depth).value for depth in (1, 5, 20)] == [0.25, 0.5, 0.5]
    assert rerank.reciprocal_rank(places, queries).value == pytest.approx((1 + 1 / 4 + 1 / 21) / 4)


@torch.no_grad()
def test_a_question_is_scored_after_the_passage_and_the_request() -> None:
    reader = Reader.of(anchored_compressor())
    scorers, rankings = rerank._scorers(reader, PARAGRAPHS)
    assert scorers.keys() == {"text", "vectors", "half the vectors"}
    query = Query(PARAGRAPHS[1].questions[0].text, 1)
    ids, asked = (torch.tensor(reader.encode(text)) for text in (PARAGRAPHS[1].text, rerank.ASKING + query.text))
    num_scored = len(reader.encode(query.text))
    ending = rerank._ending(reader, query)
    assert ending.ids == asked.tolist()
    text = reader.losses(torch.cat([ids, asked])[None], num_scored)
    prompt = torch.cat([one.vectors for one in reader.summaries(ids[None])[0]])
    vectors = reader.losses(asked[None], num_scored, prompt[None])
    assert text is not None
    assert vectors is not None
    assert scorers["text"](1, ending) == pytest.approx(text.mean().item(), abs=1e-4)
    assert scorers["vectors"](1, ending) == pytest.approx(vectors.mean().item(), abs=1e-4)
    assert rankings["vectors"].num_bytes[1] == prompt.numel() * 4
    assert rankings["text"].num_bytes[1] == len(PARAGRAPHS[1].text.encode())


@pytest.mark.parametrize("kind", ["anchored", "summary tokens"])
def test_the_suite_s_table_follows_from_its_places(kind: str, tmp_path: Path) -> None:
    records = [
        {"context": each.text, "questions": [{"question": q.text, "answer": q.answer} for q in each.questions]}
        for each in PARAGRAPHS
    ]
    path = write_jsonl(tmp_path / "questions.jsonl", records)
    assert read_paragraphs(path) == PARAGRAPHS
    options = options_of("rerank", tmp_path, samples=6, questions=path)
    rerank.run(Reader.of(anchored_compressor() if kind == "anchored" else compressor()), options).write(options)
    found = json.loads((options.out / "rerank.json").read_text())
    places = found["measured"]["places"]
    methods = {"BM25", "text", "vectors"} | ({"half the vectors"} if kind == "anchored" else set())
    assert places.keys() == methods
    assert places["BM25"] == [1] * 6  # each question names the thing of its paragraph
    assert all(set(each) <= {1, 2, 3} for each in places.values())
    first = sum(place == 1 for place in places["vectors"]) / 6
    assert cell(found["tables"][0], "R@1", order_by="vectors")["value"] == pytest.approx(first)


def test_a_single_paragraph_is_refused(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "one.jsonl", [{"context": "x", "questions": [{"question": "y", "answer": "z"}]}])
    with pytest.raises(ValueError, match="has 1 paragraphs; 2 are the least"):
        rerank.run(Reader.of(compressor()), options_of("rerank", tmp_path, questions=path))
