"""Which optimiser takes which weight, and how learning rates rise and fall."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from model import AutoCompressor
from tests.tiny import tiny_compressor, tiny_recipe
from training.loop.optimisation import Float32Muon, build_optimisers, orthogonalised, schedule, set_learning_rates
from training.recipes.recipe import Stage


def stage(**changes: object) -> Stage:
    return replace(tiny_recipe().pretraining, **changes)


def taken(model: AutoCompressor, settings: Stage) -> list[set[str]]:
    """The names of what each optimiser takes."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [
        {names[id(parameter)] for group in optimiser.param_groups for parameter in group["params"]}
        for optimiser in build_optimisers(model, settings)
    ]


def test_muon_takes_hidden_matrices_only() -> None:
    model = tiny_compressor("llama")
    adamw, muon = taken(model, stage())
    names = {name for name, _ in model.named_parameters()}
    assert adamw | muon == names
    assert not adamw & muon
    assert {"embed_summary.weight", "base.model.embed_tokens.weight", "base.lm_head.weight"} <= adamw
    assert all("proj" in name for name in muon)
    assert len(muon) == 2 * 7
    assert taken(model, stage(matrix_learning_rate=None)) == [names]


def test_muon_in_float32_is_muon() -> None:
    """Torch computes in bfloat16, and is as near as that allows: step after step, for wide and for tall matrices."""
    torch.manual_seed(0)
    for shape in ((24, 64), (64, 24)):
        ours, theirs = nn.Parameter(torch.zeros(shape)), nn.Parameter(torch.zeros(shape))
        optimisers = Float32Muon([ours], lr=0.1), torch.optim.Muon([theirs], lr=0.1)
        for _ in range(5):
            ours.grad = torch.randn(shape)
            theirs.grad = ours.grad.clone()
            for optimiser in optimisers:
                optimiser.step()
            assert (ours - theirs).norm() < 0.02 * theirs.norm()
        assert torch.equal(*(optimiser.state_dict()["state"][0]["momentum_buffer"] for optimiser in optimisers))


def test_orthogonalised_brings_singular_values_near_one() -> None:
    matrix = torch.randn(24, 64, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalised(matrix, (3.4445, -4.7750, 2.0315), steps=5, eps=1e-7))
    assert values.min() > 0.5
    assert values.max() < 1.5


def test_muon_computes_in_the_precision_of_the_run() -> None:
    model = tiny_compressor("llama")
    kinds = {precision: type(build_optimisers(model, stage(), precision)[1]) for precision in ("bf16", "no")}
    assert kinds == {"bf16": torch.optim.Muon, "no": Float32Muon}


def test_frozen_weights_are_left_out() -> None:
    model = tiny_compressor("llama")
    model.base.requires_grad_(False)
    assert taken(model, stage()) == [{"embed_summary.weight"}]
    model.base.model.layers[0].mlp.up_proj.requires_grad_(True)
    assert taken(model, stage())[1] == {"base.model.layers.0.mlp.up_proj.weight"}


def test_nothing_that_trains() -> None:
    with pytest.raises(ValueError, match="no parameter trains"):
        build_optimisers(nn.Linear(2, 2).requires_grad_(False), stage())


def test_adamw_is_as_the_stage_says() -> None:
    settings = stage(matrix_learning_rate=None, adam_betas=(0.8, 0.99), weight_decay=0.25)
    (optimiser,) = build_optimisers(nn.Linear(2, 2), settings)
    (group,) = optimiser.param_groups
    assert (group["betas"], group["weight_decay"], group["lr"]) == ((0.8, 0.99), 0.25, 1e-2)


def test_the_learning_rate_warms_up_and_falls_to_a_tenth() -> None:
    settings = stage(warmup_steps=4)
    shares = [schedule(step, settings) for step in range(settings.steps + 1)]
    assert shares[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert shares[4:] == sorted(shares[4:], reverse=True)
    assert shares[4:7] == pytest.approx([1.0, 0.9914, 0.9657], abs=1e-4)  # a cosine sets out flat
    assert shares[-1] == pytest.approx(0.1)


@pytest.mark.parametrize("final_share", [0.0, 0.25])
def test_linear_decay(final_share: float) -> None:
    """As the published script's trainer has it where the final share is 0."""
    settings = stage(warmup_steps=4, decay="linear", final_share=final_share)
    shares = [schedule(step, settings) for step in range(4, settings.steps + 1)]
    assert shares == pytest.approx([1 - (1 - final_share) * step / 16 for step in range(17)])


def test_a_short_run_warms_up_for_a_fifth_of_its_steps() -> None:
    """A thousand steps of warm-up left a run of 254 steps below a quarter of its learning rate."""
    settings = stage(warmup_steps=1000)
    assert settings.steps == 20
    assert [schedule(step, settings) for step in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])


def test_each_optimiser_gets_its_own_learning_rate() -> None:
    settings = stage(warmup_steps=4)
    optimisers = build_optimisers(tiny_compressor("llama"), settings)
    assert set_learning_rates(optimisers, 1, settings) == pytest.approx(0.5)
    rates = {type(optimiser): optimiser.param_groups[0]["lr"] for optimiser in optimisers}
    assert rates == pytest.approx({torch.optim.AdamW: 5e-3, torch.optim.Muon: 1e-2})


@pytest.mark.parametrize("matrix_learning_rate", [None, 2e-2], ids=["adamw", "muon"])
def test_summary_embeddings_get_their_own_learning_rate(matrix_learning_rate: float | None) -> None:
    model = tiny_compressor("llama")
    for peak, expected in ((None, 5e-3), (4e-2, 2e-2)):
        settings = stage(warmup_steps=4, summary_learning_rate=peak, matrix_learning_rate=matrix_learning_rate)
        optimisers = build_optimisers(model, settings)
        set_learning_rates(optimisers, 1, settings)
        groups = [group for optimiser in optimisers for group in optimiser.param_groups]
        rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
        assert rates.pop(id(model.embed_summary.weight)) == pytest.approx(expected)
        assert rates[id(model.base.get_input_embeddings().weight)] == pytest.approx(5e-3)
        assert set(rates) == {id(parameter) for parameter in model.base.parameters()}
