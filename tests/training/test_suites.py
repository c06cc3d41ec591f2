"""The frame of the bench: the same windows for every method, losses as the model gives them, files that are whole."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional
from typer.testing import CliRunner

from model.bm25 import Passages
from model.compressors import SegmentSummary
from tests.tiny import FAMILIES, random_ids, tiny_compressor
from tests.training.bench import (
    SEGMENT,
    anchored_compressor,
    compressor,
    corpus,
    options_of,
)
from training.__main__ import app
from training.bench.drawing import drawn, drawn_by_domain
from training.bench.figure import Line, Panel
from training.bench.outcome import Number, Outcome, Table
from training.bench.prefix import Ending, Prefix
from training.bench.reader import Reader, joined
from training.bench.suites.catalogue import SUITES, run_suite
from training.bench.tally import gain, share, tallied, with_all, with_sides
from training.data.documents import TokenisedDocuments
from training.evaluation.intervals import Estimate
from training.evaluation.scores import DocumentScore


def documents_of(*lengths: int) -> TokenisedDocuments:
    tokens = random_ids(1, sum(lengths))[0].numpy().astype(np.uint16)
    return TokenisedDocuments(tokens, np.cumsum([0, *lengths]), "random")


# --- windows


def test_a_seed_draws_the_same_windows_and_another_seed_others() -> None:
    documents = documents_of(200, 300, 90)
    first, again, other = (drawn(documents, 40, 6, seed=seed) for seed in (3, 3, 4))
    assert first is not None
    assert again is not None
    assert other is not None
    assert first.digest() == again.digest() != other.digest()


def test_windows_lie_in_their_document_apart_from_one_another_in_as_many_documents_as_there_are() -> None:
    documents = documents_of(100, 30, 400, 41)
    windows = drawn(documents, 40, 5, seed=0)
    assert windows is not None
    assert set(windows.documents) == {0, 2, 3}
    assert len(windows) == 5
    places = set()
    for tokens, document in zip(windows.tokens, windows.documents, strict=True):
        own = documents.tokens[documents.starts[document] : documents.starts[document + 1]].tolist()
        (place,) = (at for at in range(len(own) - 39) if own[at : at + 40] == tokens.tolist())
        covered = {(int(document), at) for at in range(place, place + 40)}
        assert not covered & places
        places |= covered


def test_too_few_documents_are_named_with_the_tokens_that_are_needed() -> None:
    with pytest.raises(ValueError, match="none of the 2 documents of books has 1,000 tokens"):
        drawn_by_domain({"books": documents_of(200, 300)}, 1000, 1, seed=0)


# --- the reader


@pytest.mark.parametrize("accumulate_summary", [True, False], ids=["autocompressor", "rmt"])
@torch.no_grad()
def test_losses_are_what_the_model_gives(accumulate_summary: bool) -> None:
    model = compressor(accumulate_summary=accumulate_summary)
    reader = Reader.of(model)
    ids = random_ids(2, 3 * SEGMENT + 10)
    rows = reader.newest(ids[:, :-10], [1, 2, 3, 4])
    assert rows.keys() == {1, 2, 3}
    for count, summaries in rows.items():
        tail = ids[:, -count * SEGMENT - 10 :]
        logits = model(tail, segment_lengths=[SEGMENT] * count + [10]).logits[:, -9:-1]
        expected = functional.cross_entropy(logits.transpose(1, 2), ids[:, -8:], reduction="none")
        found = reader.losses(ids[:, -10:], 8, joined(summaries))
        assert found is not None
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_what_does_not_fit_has_no_loss() -> None:
    reader = Reader.of(tiny_compressor(max_positions=32, segment_length=16, summary_length=4))
    assert reader.losses(random_ids(1, 33), 8) is None
    assert reader.losses(random_ids(1, 30), 8, torch.zeros(1, 4, reader.model.hidden_size)) is None
    assert [count for count in range(1, 8) if reader.can_summarise(count)] == [1, 2, 3, 4]
    assert not Reader.of(tiny_compressor(summary_length=0)).can_summarise(1)


def test_a_model_without_a_tokenizer_is_refused() -> None:
    model = compressor()
    model.tokenizer = None
    with pytest.raises(ValueError, match="the model has no tokenizer"):
        Reader.of(model)


def test_the_newest_segments_of_a_model_that_reads_them_alone_are_those_of_all() -> None:
    reader = Reader.of(anchored_compressor())
    ids = random_ids(1, 4 * SEGMENT)
    ((*_, third, fourth),) = reader.summaries(ids)
    ((newest_third, newest_fourth),) = reader.newest(ids, [2, 4])[2]
    assert torch.equal(third.vectors, newest_third.vectors)
    assert torch.equal(fourth.vectors, newest_fourth.vectors)
    torch.testing.assert_close(third.vectors, reader.summaries(ids[:, 2 * SEGMENT : 3 * SEGMENT])[0][0].vectors)


def test_a_soft_prompt_of_fewer_vectors_has_the_most_important_in_the_order_of_the_text() -> None:
    vectors = torch.arange(8.0).reshape(4, 2)
    ranked, unranked = SegmentSummary(vectors, torch.tensor([2, 0, 3, 1])), SegmentSummary(vectors)
    thinned = joined([[ranked, ranked]], 2)
    assert thinned is not None
    assert thinned.tolist() == [[[2.0, 3.0], [6.0, 7.0]] * 2]
    assert joined([[unranked]], 2) is None
    whole = joined([[unranked]], 4)
    assert whole is not None
    assert torch.equal(whole[0], vectors)


# --- endings after a prefix


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("num_vectors", [0, 3])
@torch.no_grad()
def test_an_ending_s_loss_does_not_depend_on_the_others_nor_on_the_cache(family: str, num_vectors: int) -> None:
    reader = Reader.of(tiny_compressor(family))
    vectors = torch.randn(num_vectors, reader.model.hidden_size, generator=torch.Generator().manual_seed(0))
    ids = random_ids(1, 40)[0].tolist()
    endings = [Ending(ids[20:27], 5), Ending(ids[27:31], 2), Ending(ids[31:], 8)]
    prefix = Prefix.read(reader, ids[:20], vectors)
    for _ in range(2):  # the cache is as it was
        together = prefix.losses(endings)
        assert together is not None
        for ending, losses in zip(endings, together, strict=True):
            whole = torch.tensor([[*ids[:20], *ending.ids]])
            alone = reader.losses(whole, ending.num_scored, vectors[None])
            assert alone is not None
            torch.testing.assert_close(losses, alone[0], rtol=0, atol=2e-4)


@torch.no_grad()
def test_endings_without_a_prefix() -> None:
    reader = Reader.of(compressor())
    ids = random_ids(1, 12)[0].tolist()
    found = Prefix.read(reader).losses([Ending(ids[:6], 4), Ending(ids[6:], 5)])
    assert found is not None
    alone = reader.losses(torch.tensor([ids[6:]]), 5)
    assert alone is not None
    torch.testing.assert_close(found[1], alone[0], rtol=0, atol=1e-4)


def test_an_ending_that_does_not_fit_has_no_loss() -> None:
    reader = Reader.of(tiny_compressor(max_positions=32))
    prefix = Prefix.read(reader, random_ids(1, 30)[0])
    assert prefix.losses([Ending([1, 2, 3], 1)]) is None
    assert prefix.losses([Ending([1, 2], 1)]) is not None


# --- figures


def test_shares_and_gains_by_hand() -> None:
    """Ten tokens a document: 4 and 2 nats a token without, 3 and 1.5 with vectors, 2 and 1 in full."""
    scores = {
        name: [DocumentScore(0, 10 * first, 10), DocumentScore(1, 10 * second, 10)]
        for name, (first, second) in {"none": (4.0, 2.0), "vectors": (3.0, 1.5), "full": (2.0, 1.0)}.items()
    }
    closed, gained = share(scores, "vectors", "full"), gain(scores, "vectors")
    assert closed is not None
    assert gained is not None
    assert closed == Estimate(0.5, 0.5, 0.5)  # half of each document's gap
    assert gained.value == pytest.approx(0.75)
    assert (gained.low, gained.high) == (pytest.approx(0.5), pytest.approx(1.0))
    assert share(scores, "vectors", "none") is None
    assert share(scores, "absent", "full") is None


def test_all_domains_together_have_the_conditions_that_all_have() -> None:
    one = [DocumentScore(0, 1.0, 1)]
    found = with_all({"books": {"a": one, "b": one}, "law": {"a": one}})
    assert found["all domains"] == {"a": one * 2}
    assert with_all({"books": {"a": one}}) == {"books": {"a": one}}


def test_the_two_sides_are_of_domains_with_training_documents_and_of_the_others() -> None:
    scores = {name: {"a": [DocumentScore(0, loss, 1)]} for name, loss in (("books", 1.0), ("code", 2.0), ("law", 4.0))}
    found = with_sides(with_all(scores), ["books", "code"])
    assert list(found) == ["books", "code", "law", "in domain", "out of domain", "all domains"]
    assert found["in domain"]["a"] == [*scores["books"]["a"], *scores["code"]["a"]]
    assert found["out of domain"] == scores["law"]
    for inside in ([], ["books", "code", "law"]):
        assert with_sides(with_all(scores), inside) == with_all(scores)


def test_every_condition_is_given_the_same_windows() -> None:
    windows = drawn_by_domain({"books": documents_of(100, 90), "law": documents_of(70)}, 20, 3, seed=1)
    seen: dict[str, list[list[int]]] = {}

    def conditions(tokens: torch.Tensor):  # type: ignore[no-untyped-def]
        for name in ("one", "other", "absent"):
            seen.setdefault(name, []).extend(tokens.tolist())
            yield name, None if name == "absent" else tokens[:, -2:].float()

    found = tallied(windows, conditions, "test")
    assert seen["one"] == seen["other"] == [row for each in windows.values() for row in each.tokens.tolist()]
    assert found["books"].keys() == {"one", "other"}
    expected = sum(sum(row[-2:]) for row in windows["books"].tokens.tolist())
    assert sum(score.nll for score in found["books"]["one"]) == pytest.approx(expected)
    assert sum(score.tokens for score in found["books"]["one"]) == 2 * len(windows["books"])


def test_the_best_passages_share_words_with_the_question() -> None:
    passages = Passages(["The keeper counts ships.", "A white cat sleeps.", "Bread was short in winter."])
    assert passages.best("Who counts the ships?", 2)[0] == 0
    assert passages.best("Where does the cat sleep, the white one?", 1) == [1]
    assert passages.best("of the", 3) == [0, 1, 2]  # stop words only: in their order


def test_an_outcome_is_written_as_json_markdown_and_png(tmp_path: Path) -> None:
    options = options_of("perplexity", tmp_path, samples=7, seed=5)
    number = Number(Estimate(0.5, 0.25, 0.75), "{:.0%}")
    outcome = Outcome(
        heading="a test",
        counted="windows",
        notes=["How."],
        tables=[Table("First", ["domain", "share", "other"], [["books", number, None]])],
        panels=[Panel("title", "x", "y", [Line("books", [(1, number.estimate), (2, None)])])],
        measured={"sums": [1, 2]},
    )
    path = outcome.write(options)
    text = path.read_text()
    assert "| books | 50% (25% to 75%) | – |" in text
    assert "7 windows, split test, seed 5: `autocompressor train evaluate --suite perplexity --checkpoint" in text
    stored = json.loads((options.out / "perplexity.json").read_text())
    assert stored["tables"][0]["rows"] == [["books", {"value": 0.5, "low": 0.25, "high": 0.75}, None]]
    assert (stored["samples"], stored["seed"], stored["split"]) == (7, 5, "test")
    assert (options.out / "perplexity.png").read_bytes().startswith(b"\x89PNG")
    assert not list(options.out.glob("*.unfinished"))


# --- the command


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bench") / "checkpoint"
    compressor().save_pretrained(directory)
    return directory


def invoke(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["evaluate", *map(str, arguments)])
    return result.exit_code, result.output


def test_the_help_names_every_suite() -> None:
    status, output = invoke("--help")
    assert status == 0
    assert "--suite" in output
    assert all(name in output for name in SUITES)


def test_the_command_runs_a_suite(checkpoint: Path, tmp_path: Path) -> None:
    data = corpus(tmp_path / "data", num_sentences=40)
    out, cache = tmp_path / "out", tmp_path / "cache"
    status, output = invoke(
        "--suite", "depth", "--checkpoint", checkpoint, "--data", data, "--out", out, "--samples", 1, "--cache", cache
    )
    assert status == 0, output
    assert {path.name for path in out.iterdir()} == {"depth.json", "depth.md", "depth.png"}
    assert (out / "depth.md").read_text() in output
    assert f"--suite depth --checkpoint {checkpoint} --data {data} --split test --samples 1 --seed 0" in output


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--suite", "speed", "--out", "out"], "there is no suite 'speed'; there are: perplexity, "),
        (["--suite", "depth"], "--suite depth needs --out, the folder to write to"),
        (["--suite", "depth", "--out", "out", "--samples", "0"], "samples is 0; it must be 1 or more"),
        (["--suite", "depth", "--out", "out", "--label", "x"], "--label: not with --suite depth"),
        (["--suite", "depth", "--out", "out", "--tasks", "x"], "--tasks: the suite depth does not read it"),
        (["--out", "out", "--samples", "3"], "--out, --samples: only with --suite"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_flags_that_cannot_be_meant_are_refused(
    flags: list[str], message: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, output = invoke("--checkpoint", checkpoint, "--data", tmp_path, *flags)
    assert status == 2
    assert message in output
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_without_tokenizer_and_too_short_documents_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    model = compressor()
    model.tokenizer = None
    model.save_pretrained(tmp_path / "bare")
    with pytest.raises(ValueError, match="bare has no tokenizer; the suites read text"):
        run_suite(options_of("perplexity", tmp_path, checkpoint=tmp_path / "bare"))
    short = corpus(tmp_path / "short", num_sentences=3)
    with pytest.raises(ValueError, match=r"none of the 4 documents of books, law has 576 tokens"):
        run_suite(options_of("perplexity", tmp_path, checkpoint=checkpoint, data=short))
