"""The ablation: every way to write and to train runs, and the shipped one is the model's own."""

import json
from dataclasses import replace

import pytest
import torch

from benchmarks.ablations import KINDS, Bench, run, table
from benchmarks.trials import TRIALS, Reader, Trial
from tests.tiny import TEXT, random_ids, tiny_base, tiny_recipe, tiny_tokenizer
from training.recipes.recipe import Lora

CONTEXT, TAIL = 48, 32


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("ablations")
    tiny_base("llama").save_pretrained(folder / "base")
    tiny_tokenizer().save_pretrained(folder / "base")
    for split in ("train", "valid"):
        (folder / f"books.{split}.jsonl").write_text(json.dumps({"text": TEXT * 6}) + "\n")
    tiny = tiny_recipe()
    recipe = replace(
        tiny,
        base=replace(tiny.base, name=str(folder / "base")),
        pretraining=None,
        adaptation=replace(tiny.adaptation, matrix_learning_rate=None, summary_learning_rate=2e-2),
        trained="lora",
        lora=Lora(rank=2, alpha=4, dropout=0.0, modules=("q_proj", "up_proj")),
        saved="adapter",
    )
    return Bench(recipe, folder, context=CONTEXT, tail=TAIL, batch=2, steps=2, windows=2, cache=folder / "cache")


def reader_of(bench: Bench, trial: Trial) -> Reader:
    reader = Reader(trial, bench.model(trial), bench.context)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in reader.model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return reader


def trial(name: str) -> Trial:
    (found,) = [each for each in TRIALS if each.name == name]
    return found


@pytest.mark.parametrize("each", TRIALS, ids=[each.name for each in TRIALS])
def test_every_trial_runs(bench: Bench, each: Trial) -> None:
    found = run(bench, each)
    assert set(found["closed"]) == set(KINDS)
    assert all(share == share for share in found["closed"].values())
    assert len(found["losses"]) == bench.steps
    assert table({each.name: found}).count(each.name) == 1


@torch.no_grad()
def test_the_shipped_trial_writes_and_reads_as_the_model_does(bench: Bench) -> None:
    reader, tokens = reader_of(bench, trial("anchored, KL on all of the tail")), random_ids(2, CONTEXT + TAIL)
    rows = [reader.model.summarise(row[:CONTEXT], CONTEXT) for row in tokens]
    vectors = torch.stack([torch.cat([each.vectors for each in row]) for row in rows])
    torch.testing.assert_close(reader.vectors(tokens), vectors)
    expected = reader.model(tokens[:, CONTEXT - 1 : -1], soft_prompt=vectors).logits
    torch.testing.assert_close(reader.student(tokens), expected)
    assert not torch.allclose(reader.teach(tokens), expected)


@torch.no_grad()
def test_ways_to_write_differ_where_they_say(bench: Bench) -> None:
    tokens = random_ids(2, CONTEXT + TAIL)
    written = {
        name: reader_of(bench, trial(name)).vectors(tokens)
        for name in (
            "anchored, KL on all of the tail",
            "anchors at equal distances",
            "anchors appended, states read there",
            "two segments, read alone",
            "two segments, accumulated",
            "4 tokens a vector",
        )
    }
    shapes = {name: vectors.shape[1] for name, vectors in written.items()}
    assert shapes.pop("4 tokens a vector") == 2 * shapes["anchored, KL on all of the tail"]
    assert set(shapes.values()) == {CONTEXT // 8}
    alone, accumulated = written["two segments, read alone"], written["two segments, accumulated"]
    first = alone.shape[1] // 2
    torch.testing.assert_close(alone[:, :first], accumulated[:, :first])
    assert not torch.allclose(alone[:, first:], accumulated[:, first:])
    shipped = written["anchored, KL on all of the tail"]
    assert not torch.allclose(shipped, written["anchors at equal distances"])
    assert not torch.allclose(shipped, written["anchors appended, states read there"])
