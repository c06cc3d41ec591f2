"""Losses of the last segment: as the model itself gives them, on the same tokens for everyone."""

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

import training.evaluation.checkpoints
from model import AutoCompressor
from tests.tiny import TEXT, random_ids, tiny_anchored, tiny_base, tiny_compressor, tiny_tokenizer
from training.bases.references import reference_of
from training.data.documents import TokenisedDocuments
from training.data.tokenizer import train_tokenizer
from training.evaluation.checkpoints import evaluate, evaluate_checkpoint
from training.evaluation.results import Evaluation
from training.evaluation.scorer import Scorer
from training.evaluation.scores import NO_CONTEXT, Condition
from training.evaluation.windows import DomainWindows, Windows

SEGMENT = 16


def documents_of(*lengths: int, seed: int = 0) -> TokenisedDocuments:
    tokens = random_ids(1, sum(lengths), seed=seed)[0].numpy().astype(np.uint16)
    return TokenisedDocuments(tokens, np.cumsum([0, *lengths]), "random")


def compressed(count: int) -> Condition:
    return Condition(count, is_compressed=True)


def in_full(count: int) -> Condition:
    return Condition(count, is_compressed=False)


def loss_of(logits: Tensor, window: Tensor) -> float:
    """Of a window's last segment but its first token, given the logits of all the tokens that were read."""
    targets = window[:, 1 - SEGMENT :]
    return functional.cross_entropy(logits[:, -SEGMENT:-1].flatten(0, 1), targets.flatten(), reduction="sum").item()


# --- what is measured


@pytest.mark.parametrize("accumulate_summary", [True, False], ids=["autocompressor", "rmt"])
@pytest.mark.parametrize("family", ["llama", "opt"])
@torch.no_grad()
def test_every_condition_is_what_the_model_gives(family: str, accumulate_summary: bool) -> None:
    model = tiny_compressor(family, accumulate_summary=accumulate_summary)
    window = random_ids(1, 4 * SEGMENT, seed=3)
    documents = TokenisedDocuments(window[0].numpy().astype(np.uint16), np.array([0, 4 * SEGMENT]))
    scores = next(iter(evaluate(model, {"books": documents}, contexts=(1, 2, 3)).models.values()))["books"]
    assert scores.keys() == {NO_CONTEXT, *(kind(count) for kind in (compressed, in_full) for count in (1, 2, 3))}
    for condition, (score,) in scores.items():
        tokens = window[:, -(condition.num_segments + 1) * SEGMENT :]
        expected = loss_of(model(tokens, segment_lengths=SEGMENT if condition.is_compressed else None).logits, window)
        assert (score.document, score.tokens) == (0, SEGMENT - 1)
        assert score.nll == pytest.approx(expected, abs=2e-3), condition
    assert len({score.nll for (score,) in scores.values()}) == len(scores)


@torch.no_grad()
def test_rmt_reads_the_newest_vectors_only() -> None:
    model = tiny_compressor(accumulate_summary=False)
    window = random_ids(1, 4 * SEGMENT)
    vectors = model.compress(window[:, :-SEGMENT], segment_lengths=SEGMENT)
    assert vectors.shape[1] == 3 * model.summary_length
    expected = loss_of(model(window[:, -SEGMENT:], soft_prompt=vectors[:, -model.summary_length :]).logits, window)
    (loss,) = Scorer.of(model).losses(window, compressed(3)).tolist()
    assert loss == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("condition", [NO_CONTEXT, compressed(3), in_full(3)], ids=lambda condition: condition.name)
def test_a_window_s_loss_does_not_depend_on_its_batch(condition: Condition) -> None:
    scorer = Scorer.of(tiny_compressor())
    windows = random_ids(5, 4 * SEGMENT)
    alone = torch.cat([scorer.losses(window[None], condition) for window in windows])
    torch.testing.assert_close(scorer.losses(windows, condition), alone, rtol=0, atol=2e-3)
    assert alone.unique().numel() == 5


@torch.no_grad()
def test_the_output_layer_runs_in_float32() -> None:
    model = tiny_compressor(dtype=torch.bfloat16)
    window = random_ids(1, SEGMENT)
    hidden, _ = model.run_segment(window, torch.ones_like(window), model.empty_soft_prompt(), is_compressed=False)
    assert hidden.dtype == torch.bfloat16
    expected = loss_of(hidden.float() @ model.base.lm_head.weight.float().T, window)
    (loss,) = Scorer.of(model).losses(window, NO_CONTEXT).tolist()
    assert loss == pytest.approx(expected, abs=1e-3)
    assert abs(loss - loss_of(model.logits(hidden).float(), window)) > 1e-3


def test_a_document_s_windows_are_summed() -> None:
    """Thirteen windows in three documents are more than a batch."""
    model = tiny_compressor()
    documents = documents_of(2 * SEGMENT, 5, 4 * SEGMENT + 7, 20 * SEGMENT)
    (scores,) = evaluate(model, {"books": documents}, contexts=(1,)).models["AutoCompressor"].values()
    for condition, found in scores.items():
        assert [score.document for score in found] == [0, 2, 3]
        assert [score.tokens for score in found] == [15, 2 * 15, 10 * 15]
        for score in found:
            start, end = documents.starts[score.document : score.document + 2]
            whole = len(documents.tokens[start:end]) // (2 * SEGMENT) * 2 * SEGMENT
            windows = torch.from_numpy(documents.run(start, whole)).view(-1, 2 * SEGMENT)
            assert score.nll == pytest.approx(Scorer.of(model).losses(windows, condition).sum().item(), abs=5e-3)


@pytest.mark.parametrize(
    ("accumulate_summary", "max_positions", "counts"),
    [
        (True, 64, {True: [1, 2, 3, 7], False: [1, 2, 3]}),
        (True, 44, {True: [1, 2, 3, 7], False: [1]}),
        (True, 43, {True: [1, 2, 3], False: [1]}),
        (False, 24, {True: [1, 2, 3, 7], False: []}),
        (False, 23, {True: [1], False: []}),
    ],
)
def test_conditions_that_do_not_fit_are_left_out(
    accumulate_summary: bool, max_positions: int, counts: dict[bool, list[int]]
) -> None:
    model = tiny_compressor(accumulate_summary=accumulate_summary, max_positions=max_positions)
    evaluation = evaluate(model, {"books": documents_of(8 * SEGMENT)}, label="model")
    expected = [Condition(count, is_compressed) for is_compressed, found in counts.items() for count in found]
    assert list(evaluation.models["model"]["books"]) == [NO_CONTEXT, *expected]


def test_a_model_without_summary_tokens_has_no_compressed_conditions() -> None:
    model, documents = tiny_compressor(summary_length=0), {"books": documents_of(8 * SEGMENT)}
    evaluation = evaluate(model, documents, contexts=(1, 3), label="fine-tuned without context")
    assert list(evaluation.models["fine-tuned without context"]["books"]) == [NO_CONTEXT, in_full(1), in_full(3)]
    with pytest.raises(ValueError, match="a model without summary tokens needs a label"):
        evaluate(model, documents)


def test_a_model_is_labelled_by_its_kind() -> None:
    for accumulate_summary, label in ((True, "AutoCompressor"), (False, "RMT")):
        model = tiny_compressor(accumulate_summary=accumulate_summary)
        assert list(evaluate(model, {"books": documents_of(32)}, contexts=(1,)).models) == [label]


def test_a_model_that_cannot_be_measured_is_refused() -> None:
    documents = {"books": documents_of(8 * SEGMENT)}
    with pytest.raises(ValueError, match="is in training mode"):
        evaluate(tiny_compressor().train(), documents)
    with pytest.raises(ValueError, match="has 15 positions; a segment has 16 tokens"):
        evaluate(tiny_compressor(max_positions=15), documents)


# --- windows


def test_windows_are_spread_over_all_that_there_are() -> None:
    documents = documents_of(40, 9, 60)
    windows = DomainWindows.spread(documents, 10, max_windows=4)
    assert windows is not None
    starts = [0, 30, 69, 99]  # the first, fourth, seventh and last of ten
    assert windows.documents.tolist() == [0, 0, 2, 2]
    assert windows.tokens.tolist() == [documents.run(start, 10).tolist() for start in starts]


def test_a_domain_without_a_long_document_is_named_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    documents = {"books": documents_of(64), "docs": documents_of(31, 31)}
    with caplog.at_level(logging.WARNING, logger="training.evaluation.windows"):
        evaluation = evaluate(tiny_compressor(), documents, contexts=(1,))
    assert [domain.name for domain in evaluation.domains] == ["books"]
    assert list(evaluation.models["AutoCompressor"]) == ["books"]
    assert caplog.messages == ["docs is left out: none of its documents has 32 tokens"]
    with pytest.raises(ValueError, match="no document of docs has 32 tokens"):
        evaluate(tiny_compressor(), {"docs": documents["docs"]}, contexts=(1,))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"contexts": ()}, r"contexts are \[\]"),
        ({"contexts": (0, 1)}, r"contexts are \[0, 1\]"),
        ({"max_windows": 0}, "max_windows is 0"),
        ({"segment_length": 1}, "segment_length is 1"),
    ],
)
def test_numbers_out_of_range(wrong: dict[str, object], message: str) -> None:
    options = {"segment_length": SEGMENT, "contexts": (1,), "max_windows": 4} | wrong
    with pytest.raises(ValueError, match=message):
        Windows.of({"books": documents_of(64)}, **options)  # type: ignore[arg-type]


# --- checkpoints


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Checkpoints of each kind, and a folder of documents: books in domain, law out of it."""
    folder = tmp_path_factory.mktemp("evaluate")
    models = {
        "compressor": tiny_compressor(dtype=torch.bfloat16),
        "rmt": tiny_compressor(accumulate_summary=False, seed=1),
        "plain": tiny_compressor(summary_length=0, seed=2, max_positions=64),
    }
    for name, model in models.items():
        model.save_pretrained(folder / name)
    data = folder / "corpus"
    data.mkdir()
    texts = {"books.train": ["Not read."], "books.test": [TEXT, f"1. {TEXT}", TEXT * 2], "law.test": [TEXT * 2, TEXT]}
    for name, documents in texts.items():
        (data / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    return SimpleNamespace(data=data, cache=folder / "cache", **{name: folder / name for name in models})


Measure = Callable[..., Evaluation]


@pytest.fixture
def measured(place: SimpleNamespace) -> Measure:
    """`evaluate_checkpoint` on few windows."""

    def measure(checkpoint: Path, *, data: Path = place.data, max_windows: int = 2, **options: object) -> Evaluation:
        return evaluate_checkpoint(
            checkpoint, data, contexts=(1, 3), max_windows=max_windows, cache=place.cache, **options
        )

    return measure


def copied(checkpoint: Path, folder: Path) -> Path:
    AutoCompressor.from_pretrained(checkpoint).save_pretrained(folder)
    return folder


def test_checkpoints_side_by_side(place: SimpleNamespace, measured: Measure) -> None:
    beside = {"RMT": place.rmt, "fine-tuned without context": place.plain}
    evaluation = measured(place.compressor, beside=beside, device="cpu")
    assert list(evaluation.models) == ["AutoCompressor", "RMT", "fine-tuned without context"]
    assert [(domain.name, domain.is_in_domain) for domain in evaluation.domains] == [("books", True), ("law", False)]
    assert evaluation.recorded == frozenset()
    for label, directory in [("RMT", place.rmt), ("fine-tuned without context", place.plain)]:
        assert measured(directory, label=label).models[label] == evaluation.models[label]
    scores = evaluation.models["AutoCompressor"]["law"][compressed(3)]
    assert sum(score.tokens for score in scores) == 2 * (SEGMENT - 1)


def test_an_adapter_is_measured_with_its_base(place: SimpleNamespace, measured: Measure, tmp_path: Path) -> None:
    """A run's report of held-out documents was that its checkpoint has no tokenizer."""
    tiny_base("llama").save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    model = tiny_anchored()
    model.save_adapter(tmp_path / "adapter", reference_of(str(tmp_path / "base"), tmp_path / "base"))
    model.save_pretrained(tmp_path / "whole")
    found = [measured(tmp_path / name, device="cpu").models for name in ("adapter", "whole")]
    assert found[0].keys() == found[1].keys() == {"AutoCompressor"}
    for domain, scores in found[0]["AutoCompressor"].items():
        for condition, of_documents in scores.items():
            expected = [score.nll for score in found[1]["AutoCompressor"][domain][condition]]
            assert [score.nll for score in of_documents] == pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize("has_instructions", [True, False])
def test_the_dtype_is_the_stored_one_where_the_device_computes_in_it(
    place: SimpleNamespace, measured: Measure, has_instructions: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training.evaluation.checkpoints, "computes_in_bfloat16", lambda device: has_instructions)
    model = AutoCompressor.from_pretrained(place.compressor)
    assert model.dtype == torch.bfloat16
    model = model if has_instructions else model.float()
    ids = tiny_tokenizer()(TEXT, add_special_tokens=False)["input_ids"]
    starts = np.array([0, 1 + len(ids)])
    documents = TokenisedDocuments(np.array([tiny_tokenizer().bos_token_id, *ids], np.uint16), starts)
    expected = evaluate(model, {"law": documents}, contexts=(1, 3), max_windows=100)
    file = place.cache.parent / "law.jsonl"
    file.write_text(json.dumps({"text": TEXT}) + "\n")
    assert measured(place.compressor, data=file, max_windows=100) == expected


def test_files_of_one_domain_are_one(place: SimpleNamespace, measured: Measure, tmp_path: Path) -> None:
    lines = (place.data / "law.test.jsonl").read_text().splitlines(keepends=True)
    for number, line in enumerate(lines):
        (tmp_path / f"law.{number}.test.jsonl").write_text(line)
    whole = measured(place.compressor, data=place.data / "law.test.jsonl", max_windows=100)
    assert measured(place.compressor, data=tmp_path, max_windows=100) == whole
    assert [score.document for score in whole.models["AutoCompressor"]["law"][NO_CONTEXT]] == [0, 1]


def test_a_written_model_stands_beside(place: SimpleNamespace, measured: Measure, tmp_path: Path) -> None:
    both = measured(place.compressor, beside={"RMT": place.rmt})
    both.write(tmp_path / "both.json")
    again = measured(place.compressor, beside={"RMT": tmp_path / "both.json"})
    assert again == both
    assert again.recorded == {"RMT"}
    measured(place.rmt).write(tmp_path / "one.json")
    renamed = measured(place.compressor, beside={"older": tmp_path / "one.json"})
    assert renamed.models["older"] == both.models["RMT"]
    assert renamed.recorded == {"older"}
    with pytest.raises(ValueError, match="has the models AutoCompressor, RMT; none is labelled 'older'"):
        measured(place.compressor, beside={"older": tmp_path / "both.json"})
    with pytest.raises(ValueError, match="max_windows is 3 in one and 2 in the other"):
        measured(place.compressor, beside={"RMT": tmp_path / "both.json"}, max_windows=3)


def test_baselines_of_the_checkpoint_are_added(
    place: SimpleNamespace, measured: Measure, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = copied(place.compressor, tmp_path / "shipped")
    both = measured(place.compressor, beside={"RMT": place.rmt, "plain": place.plain})
    marked = {label: dict(model) | {"law": {}} for label, model in both.models.items()}
    replace(both, models=marked).write(checkpoint / "baselines.json")
    evaluation = measured(checkpoint, beside={"plain": place.plain})
    assert list(evaluation.models) == ["AutoCompressor", "plain", "RMT"]
    assert evaluation.recorded == {"RMT"}
    assert evaluation.models["RMT"] == marked["RMT"]
    assert evaluation.models["AutoCompressor"] == both.models["AutoCompressor"]
    both.write(tmp_path / "both.json")
    asked_for = measured(checkpoint, beside={"RMT": tmp_path / "both.json"})
    assert asked_for.models["RMT"] == both.models["RMT"]
    assert list(asked_for.models) == ["AutoCompressor", "RMT", "plain"]
    assert not caplog.messages
    assert list(measured(checkpoint, max_windows=1).models) == ["AutoCompressor"]
    assert "baselines.json are left out: evaluations of different windows: max_windows" in caplog.messages[-1]


def test_models_that_cannot_be_compared_are_refused(place: SimpleNamespace, measured: Measure, tmp_path: Path) -> None:
    other_tokenizer = train_tokenizer([TEXT[::-1]], vocabulary_size=320, max_positions=128)
    AutoCompressor.from_base(tiny_base("llama"), 4, tokenizer=other_tokenizer).save_pretrained(tmp_path / "tokens")
    tiny_compressor(segment_length=20).save_pretrained(tmp_path / "segments")
    with pytest.raises(ValueError, match="other has another tokenizer than AutoCompressor"):
        measured(place.compressor, beside={"other": tmp_path / "tokens"})
    with pytest.raises(ValueError, match="different segment lengths: AutoCompressor 16, other 20"):
        measured(place.compressor, beside={"other": tmp_path / "segments"})
    with pytest.raises(ValueError, match="'AutoCompressor' is the checkpoint's own"):
        measured(place.compressor, beside={"AutoCompressor": place.rmt})
    with pytest.raises(ValueError, match="a model without summary tokens needs a label"):
        measured(place.plain)
