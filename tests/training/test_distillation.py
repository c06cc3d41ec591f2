"""Distillation: what is read, and that adapter and bridge train and the base, which teaches, does not."""

import math
import os
import random
import signal
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from model import AutoCompressor
from tests.tiny import (
    TEXT,
    cpu_accelerator,
    random_ids,
    repetitive_documents,
    tiny_anchored,
    tiny_base,
    tiny_recipe,
    tiny_tokenizer,
)
from tests.training.runs import StopsAt, records_of, run_of
from training.commands.overrides import Overrides
from training.data.batches import Batches, Part
from training.loop.feed import feed
from training.loop.stopping import StopRequest
from training.loop.trainer import Interrupted
from training.objectives.distillation import Distilling, Rows, divergence
from training.objectives.layouts import Kind, Layout
from training.objectives.padding import together
from training.planning.devices import DEVICES
from training.planning.passes import Pass, passes_of
from training.planning.plan import plan
from training.recipes.catalogue import RECIPES
from training.recipes.recipe import Compression, Distillation, Lora, Recipe
from training.run.stages import Run

CONTEXT, TAIL = 48, 16
DISTILLATION = Distillation(context_tokens=CONTEXT, cut_tokens=4)
COMPRESSION = Compression(
    summary_length=4,
    substeps=1,
    segments_per_substep=3,
    max_segment_tokens=CONTEXT,
    segment_length=16,
    compressor="anchored",
    distillation=DISTILLATION,
)
SEEDS = range(300)


@pytest.fixture(autouse=True)
def random_state() -> Iterator[None]:
    with torch.random.fork_rng():
        yield


def objective(**changes: float) -> Distilling:
    return Distilling(COMPRESSION, replace(DISTILLATION, **changes), tiny_tokenizer(), seed=0)


def layouts(**changes: float) -> list[Layout]:
    distillation = replace(DISTILLATION, **changes)
    return [Layout.draw(COMPRESSION, distillation, random.Random(seed)) for seed in SEEDS]


@torch.no_grad()
def losses(model: AutoCompressor, tokens: Tensor, *drawn: Layout, padded_positions: int = 0) -> Tensor:
    everywhere = torch.ones(len(tokens), TAIL, dtype=torch.bool)
    return objective(padded_positions=padded_positions).losses(model, Rows(tokens, everywhere, ~everywhere), drawn)


def test_the_divergence_by_hand() -> None:
    expected, found = torch.tensor([0.5, 0.25, 0.25]), torch.tensor([0.25, 0.25, 0.5])
    by_hand = 0.5 * math.log(2) + 0.25 * math.log(0.5)
    assert float(divergence(expected.log(), found.log())) == pytest.approx(by_hand)
    assert float(divergence(expected.log(), expected.log() + 3)) == pytest.approx(0, abs=1e-7)


def test_lengths_add_up_to_the_context_and_are_multiples() -> None:
    drawn = layouts(windowed=0.5)
    for layout in drawn:
        assert layout.compressed_tokens + layout.window == CONTEXT
        assert min(layout.lengths) > 0
        assert not [length for length in (*layout.lengths, layout.window) if length % 4]
        assert layout.window <= CONTEXT // 2
        assert [end - start for start, end in layout.pieces()] == list(layout.lengths)
    assert {len(layout.lengths) for layout in drawn} == {1, 2, 3}


def test_shares_are_drawn() -> None:
    drawn = layouts(whole=0.4, reciting=0.3, asking=0.2, windowed=0.3, unrelated=0.2, thinned=0.5)

    def share(found: list[bool]) -> float:
        return sum(found) / len(SEEDS)

    assert share([len(each.lengths) == 1 for each in drawn]) == pytest.approx(0.4, abs=0.1)
    assert share([each.kind == "reciting" for each in drawn]) == pytest.approx(0.3, abs=0.1)
    assert share([each.kind == "asking" for each in drawn]) == pytest.approx(0.2, abs=0.1)
    assert share([each.window > 0 for each in drawn]) == pytest.approx(0.3 * 0.8, abs=0.1)
    assert share([each.is_unrelated for each in drawn]) == pytest.approx(0.2, abs=0.1)
    assert share([each.ratio < 1 for each in drawn]) == pytest.approx(0.5, abs=0.1)
    assert {each.ratio for each in drawn} == {0.25, 0.5, 0.75, 1.0}
    assert not [each for each in drawn if each.is_unrelated and (each.window or each.among or each.raw is not None)]


def test_raw_segments_and_company_are_drawn() -> None:
    drawn = layouts(whole=0.0, expanded=0.5, among=0.4, unrelated=0.0)
    assert sum(each.raw is not None for each in drawn) / len(SEEDS) == pytest.approx(0.5, abs=0.1)
    assert sum(each.among is not None for each in drawn) / len(SEEDS) == pytest.approx(0.4, abs=0.1)
    assert {each.among for each in drawn} == {None, "before", "after"}
    assert all(each.raw is None or each.raw < len(each.lengths) for each in drawn)
    assert not [each for each in layouts(whole=1.0, expanded=1.0) if each.raw is not None], "others must stay vectors"
    assert all(each.among is None for each in objective(among=1.0).draw(1, step=0))


def test_draws_are_of_seed_and_step_alone() -> None:
    one, same = objective(), objective()
    torch.manual_seed(1)
    tokens = random_ids(2, CONTEXT + TAIL)
    first = [one.draw(8, step=step) for step in range(6)]
    assert first == [same.draw(8, step=step) for step in range(6)]
    assert first[0] != first[1]
    reciting = [Layout("reciting", (CONTEXT,))] * 2
    rows = [each.rewritten(tokens, reciting, step=step).tokens for each, step in ((one, 3), (same, 3), (one, 4))]
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])


def test_micro_batches_are_made_ready_by_other_processes_too() -> None:
    """Where a device waits for them; and each row by its number, wherever a micro-batch begins."""
    documents = repetitive_documents(num_documents=3)
    batches = Batches([Part([documents])], sequence_tokens=CONTEXT + TAIL, batch_sequences=4, num_steps=3, seed=0)
    asking = objective(asking=0.5, unrelated=0.0, among=0.0)
    halves, whole = [slice(0, 2), slice(2, 4)], [slice(0, 4)]
    inline, apart = (
        list(feed(batches, asking, halves, range(1, 3), torch.device(device))) for device in ("cpu", "cuda")
    )
    at_once = list(feed(batches, asking, whole, range(1, 3), torch.device("cpu")))
    assert len(inline) == len(apart) == 4
    for step, (rows, layouts) in enumerate(at_once):
        for made in (inline, apart):
            own = made[2 * step : 2 * step + 2]
            assert [layout for each in own for layout in each.layouts] == layouts
            assert torch.equal(torch.cat([each.rows.tokens for each in own]), rows.tokens)
            assert torch.equal(torch.cat([each.rows.is_scored for each in own]), rows.is_scored)
    assert at_once[0].layouts != at_once[1].layouts


def test_a_signal_to_stop_leaves_the_workers_at_work() -> None:
    """A run is stopped with all of its process group; one ended its step without the workers that were to feed it."""
    batches = Batches(
        [Part([repetitive_documents(num_documents=3)])],
        sequence_tokens=CONTEXT + TAIL, batch_sequences=2, num_steps=20, seed=0,
    )  # fmt: skip
    before = set(active_children())
    made = feed(batches, objective(), [slice(0, 2)], range(20), torch.device("cuda"))
    found = [next(made)]
    workers = set(active_children()) - before
    assert workers
    found += [next(made) for _ in workers]  # each has begun
    for worker in workers:
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGTERM)
    assert len([*found, *made]) == 20
    del made
    assert not set(active_children()) - before


def test_a_lone_row_is_read_with_its_own_vectors() -> None:
    assert not any(objective(unrelated=1.0).draw(1, step=step)[0].is_unrelated for step in range(5))
    assert all(layout.is_unrelated for layout in objective(unrelated=1.0).draw(2, step=0))


def test_the_student_who_reads_the_full_text_is_the_teacher() -> None:
    tokens = random_ids(2, CONTEXT + TAIL)
    in_full = Layout("continuing", (), window=CONTEXT)
    compressed = Layout("continuing", (CONTEXT,))
    found = losses(tiny_anchored(), tokens, in_full, compressed)
    assert float(found[0]) == pytest.approx(0, abs=1e-5)
    assert found[1] > 1e-2


@torch.no_grad()
@pytest.mark.parametrize("kind", ["asking", "reciting"])
def test_answers_are_scored_by_the_teacher_and_by_their_words(kind: Kind) -> None:
    """The teacher of a question about a raw segment reads it alone; every token of the loss by hand."""
    model, gold = tiny_anchored(), 0.7
    start, long_tail = 16, 80  # of the raw segment, and tokens after it
    text = tiny_tokenizer()(TEXT)["input_ids"]
    tokens = torch.tensor([(text * 3)[: CONTEXT + long_tail]])
    layout = Layout(kind, (start, CONTEXT - start), raw=1)
    asking = objective(gold=gold)
    rows = asking.rewritten(tokens, [layout], step=0)
    tail, scored = rows.tokens[0, CONTEXT:], rows.is_scored[0]
    assert torch.equal(rows.tokens[0, :CONTEXT], tokens[0, :CONTEXT])
    assert 0 < int(scored.sum()) < long_tail
    assert torch.equal(rows.is_gold, rows.is_scored)
    told = model(torch.cat([tokens[:, start:CONTEXT], tail[None]], dim=1)).logits[0, -long_tail:].log_softmax(-1)
    (vectors,) = model.summarise(tokens[0, :start], start)
    prompt = torch.cat([vectors.vectors, model.embed(tokens[0, start:CONTEXT])])
    read = model(tail[None], soft_prompt=prompt[None]).logits[0].log_softmax(-1)
    expected = [
        float((told[place].exp() * (told[place] - read[place])).sum() - gold * read[place, tail[place + 1]])
        for place in scored.nonzero()[:, 0].tolist()
    ]
    found = asking.losses(model, rows, [layout])
    assert float(found[0]) == pytest.approx(sum(expected) / len(expected), rel=1e-4)
    unrelated = asking.rewritten(tokens, [replace(layout, raw=None, is_unrelated=True)], step=0)
    assert unrelated.is_scored.any()
    assert not unrelated.is_gold.any(), "of what is not read nothing is right"


def test_rows_that_are_read_together() -> None:
    lengths = [7, 3, 7, 5, 3, 9]
    assert list(together(lengths, 0)) == [[5], [0, 2], [3], [1, 4]]
    assert list(together(lengths, 27)) == [[5, 0, 2], [3, 1, 4]], "three of nine, then three of five"
    assert list(together(lengths, 10**6)) == [[5, 0, 2, 3, 1, 4]]
    assert list(together([4] * 5, 8)) == [[0, 1, 2, 3, 4]], "equal ones are not parted"
    assert not list(together([], 8))


@torch.no_grad()
@pytest.mark.parametrize("padded_positions", [0, 200, 10**6])
def test_a_row_is_what_the_model_makes_of_it_alone(padded_positions: int) -> None:
    """Rows read together, with different cuts, ratios and windows, against the model's own methods row by row."""
    model, tokens = tiny_anchored(), random_ids(7, CONTEXT + TAIL)
    drawn = (
        Layout("continuing", (16, 16, 16)),
        Layout("continuing", (32, 8), window=8, ratio=0.5),
        Layout("continuing", (16, 32), ratio=0.75),
        Layout("continuing", (16, 20, 12), raw=1),
        Layout("continuing", (24, 24), among="before"),
        Layout("continuing", (24, 24), among="after"),
        Layout("continuing", (48,), is_unrelated=True),
    )
    expected = []
    for row, layout in enumerate(drawn):
        other = (row + 1) % len(drawn)
        sources = [other] if layout.is_unrelated else [row]
        if layout.among is not None:
            sources.insert(0 if layout.among == "before" else 1, other)
        thinned = []
        for source in sources:
            segments = tokens[source, : drawn[source].compressed_tokens].split(list(drawn[source].lengths))
            summaries = [model.summarise(segment, len(segment))[0] for segment in segments]
            kept = [each.thinned(math.ceil(drawn[source].ratio * len(each))).vectors for each in summaries]
            if source == row and layout.raw is not None:
                kept[layout.raw] = model.embed(segments[layout.raw][None])[0]
            thinned += kept
        text = tokens[row, CONTEXT - layout.window :]
        found = model(text[None], soft_prompt=torch.cat(thinned)[None]).logits[0, layout.window :]
        taught = tokens[row, CONTEXT:] if layout.is_unrelated else tokens[row]
        wanted = model(taught[None]).logits[0, -TAIL:]
        divergences = functional.softmax(wanted, dim=-1) * (wanted.log_softmax(dim=-1) - found.log_softmax(dim=-1))
        expected.append(divergences.sum(dim=-1).mean())
    found = losses(model, tokens, *drawn, padded_positions=padded_positions)
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_gradients_reach_the_bridge_and_the_adapter_and_nothing_else() -> None:
    model = tiny_anchored()
    model.base.requires_grad_(requires_grad=False)
    assert model.adapter is not None
    for parameter in model.adapter.parameters():
        parameter.requires_grad_(requires_grad=True)
    batch = objective().prepared(random_ids(2, CONTEXT + TAIL), step=0, first_row=0)
    (substep,) = objective().substeps(model, batch, step=0)
    substep.loss.backward()
    moved = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert moved == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(name.startswith("bridge.") or ".lora_" in name for name in moved)
    assert float(model.bridge.states.weight.grad.abs().sum()) > 0


# --- recipes and their flags


@pytest.mark.parametrize(("name", "rank"), [("smollm", 16), ("smollm-gpu", 24)])
def test_the_recipes_are_planned(name: str, rank: int) -> None:
    recipe = RECIPES[name]()
    planned = plan(recipe, DEVICES["h100-80gb"])
    assert planned.does_fit
    (stage,) = planned.stages
    bridge = 4 * 576 * 576 + 576 + 1
    a_layer = rank * (2 * (576 + 576) + 2 * (576 + 192) + 3 * (576 + 1536))
    assert stage.trained_parameters == bridge + 30 * a_layer


def test_the_passes_of_a_row() -> None:
    recipe = replace(tiny_recipe(), compression=COMPRESSION)
    recipe = replace(recipe, adaptation=replace(recipe.adaptation, sequence_tokens=CONTEXT + TAIL))
    ((teacher, *later, student),) = passes_of(recipe, "adaptation", has_longest_last=False)
    assert teacher == Pass(0, CONTEXT + TAIL, is_teaching=True)
    assert later == [Pass(0, 16, is_teaching=True)] * 2
    assert student == Pass(12, TAIL)
    ((*_, longest),) = passes_of(recipe, "adaptation", has_longest_last=True)
    assert longest == Pass(12 + 1, CONTEXT - 4 + TAIL), "another row's vectors, one segment's, and the rest raw"
    for changed, message in (
        (replace(recipe, adaptation=replace(recipe.adaptation, sequence_tokens=CONTEXT)), "needs more tokens"),
        (replace(recipe, compression=replace(COMPRESSION, max_segment_tokens=32)), "up to 32 tokens"),
    ):
        with pytest.raises(ValueError, match=message):
            passes_of(changed, "adaptation", has_longest_last=False)


def test_flags_that_have_no_place_are_refused() -> None:
    recipe = RECIPES["smollm"]()
    for flags, message in (
        (Overrides(method="rmt"), "--method has no place in smollm"),
        (Overrides(has_fixed_segments=True), "--fixed-segments has no place"),
        (Overrides(trained="summary", learning_rate=1e-3), "--train has no place"),
    ):
        with pytest.raises(ValueError, match=message):
            flags.apply(recipe)
    with pytest.raises(ValueError, match="--save adapter is for a base that stays as it is; --train all"):
        Overrides(saved="adapter").apply(tiny_recipe())
    assert Overrides(saved="full").apply(recipe).saved == "full"
    assert Overrides(precision="no").apply(recipe).base.dtype == "float32"
    with pytest.raises(ValueError, match="50 tokens is not cut in multiples of 4"):
        replace(DISTILLATION, context_tokens=50)


# --- a run


def recipe_of(directory: Path) -> Recipe:
    """Ten steps of a tiny base that is stored in a directory."""
    tiny_base("llama").save_pretrained(directory)
    tiny_tokenizer().save_pretrained(directory)
    recipe = tiny_recipe()
    stage = replace(
        recipe.adaptation, matrix_learning_rate=None, summary_learning_rate=2e-2, sequence_tokens=CONTEXT + TAIL
    )
    return replace(
        recipe,
        base=replace(recipe.base, name=str(directory)),
        pretraining=None,
        adaptation=replace(stage, tokens=10 * 2 * (CONTEXT + TAIL)),
        compression=COMPRESSION,
        trained="lora",
        lora=Lora(rank=2, alpha=4, dropout=0.0, modules=("q_proj", "up_proj")),
        saved="adapter",
    )


def finished(directory: Path, recipe: Recipe) -> Run:
    run = run_of(directory, cpu_accelerator(), recipe)
    run.train(StopRequest())
    return run


def logits(model: AutoCompressor) -> Tensor:
    with torch.no_grad():
        return model(random_ids(1, 48), segment_lengths=16).logits


def test_a_run_saves_what_it_trained_and_goes_on_from_it(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path / "base")
    run = finished(tmp_path / "one", recipe)
    assert {file.name for file in run.checkpoint.iterdir()} == {"autocompressor"}
    model = AutoCompressor.from_pretrained(run.checkpoint)
    base = tiny_base("llama").state_dict()
    for name, value in model.base.state_dict().items():
        if ".lora_" not in name:
            assert torch.equal(value, base[name.replace(".linear", "")]), name
    assert model.adapter is not None
    assert all(float(layer.lora_b.detach().abs().sum()) > 0 for layer in model.adapter.layers.values())
    assert float(model.bridge.states.weight.detach().abs().sum()) > 0

    in_full = finished(tmp_path / "full", replace(recipe, saved="full"))
    assert (in_full.checkpoint / "model.safetensors").is_file()
    whole = AutoCompressor.from_pretrained(in_full.checkpoint, dtype=torch.float32)
    assert torch.equal(whole.bridge.states.weight, model.bridge.states.weight)

    onward = Overrides(base=str(run.checkpoint)).apply(recipe)
    assert onward.base.shape["hidden_size"] == 32
    again = run_of(tmp_path / "two", cpu_accelerator(), onward)
    start = again._adapted(run.checkpoint).model.eval()
    assert torch.equal(logits(start), logits(model))
    again.train(StopRequest())
    further = AutoCompressor.from_pretrained(again.checkpoint)
    assert not torch.equal(further.bridge.states.weight, model.bridge.states.weight)


def test_summary_embeddings_are_saved_without_their_base_too(tmp_path: Path) -> None:
    base = recipe_of(tmp_path / "base").base
    recipe = replace(tiny_recipe(), base=base, pretraining=None, trained="summary", saved="adapter")
    stage = replace(recipe.adaptation, matrix_learning_rate=None, tokens=3 * 2 * 64)
    run = finished(tmp_path, replace(recipe, adaptation=stage))
    assert {file.name for file in run.checkpoint.iterdir()} == {"autocompressor"}
    model = AutoCompressor.from_pretrained(run.checkpoint)
    assert model.embed_summary.weight.shape == (3, 32)
    assert len({tuple(row) for row in model.embed_summary.weight.tolist()}) == 3  # they started alike


def test_an_adapter_of_another_rank_is_not_gone_on_with(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path / "base")
    tiny_anchored().save_pretrained(tmp_path / "other")
    assert recipe.lora is not None
    recipe = replace(recipe, base=replace(recipe.base, name=str(tmp_path / "other")), lora=replace(recipe.lora, rank=3))
    with pytest.raises(ValueError, match="has rank 2, alpha 4 and 2 modules; the recipe's has rank 3"):
        finished(tmp_path, recipe)


def test_a_resumed_run_is_the_unbroken_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_of(tmp_path / "base")
    unbroken = finished(tmp_path / "unbroken", recipe)
    run, stop = run_of(tmp_path / "resumed", cpu_accelerator(), recipe), StopRequest()
    with monkeypatch.context() as patch:
        patch.setattr(run, "_objective", lambda: StopsAt(Run._objective(run), 3, stop))
        with pytest.raises(Interrupted):
            run.train(stop)
    stopped = AutoCompressor.from_pretrained(run.interim)
    resumed = finished(tmp_path / "resumed", recipe)
    assert not resumed.interim.exists()
    one, other = (AutoCompressor.from_pretrained(each.checkpoint) for each in (unbroken, resumed))
    assert torch.equal(logits(one), logits(other))
    assert not torch.equal(logits(stopped), logits(other))
    steps = [records_of(each.directory / "adaptation") for each in (unbroken, resumed)]
    assert [record.loss for record in steps[0]] == [record.loss for record in steps[1]]
