"""What an AutoCompressor computes is the same on every architecture it wraps."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import OPTConfig, PreTrainedModel

from model import AutoCompressor
from tests.tiny import END_OF_TEXT_ID, FAMILIES, random_base, random_ids, tiny_base
from tests.tiny import tiny_compressor as compressor

NO_END = 320  # an end-of-text id that no vocabulary here has: rows run to their full length


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[True, False], ids=["accumulate", "rmt"])
def accumulate_summary(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)  # float32


def is_near(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=0, atol=1e-2)


def joined(model: AutoCompressor, soft_prompt: Tensor | None, vectors: Tensor) -> Tensor:
    """The rule of the paper, written out once more."""
    if soft_prompt is None or not model.accumulate_summary:
        return vectors
    return torch.cat([soft_prompt, vectors], dim=1)


# --- the plain language model


def assert_plain(model: AutoCompressor, base: PreTrainedModel) -> None:
    ids = random_ids(2, 24)
    expected = base(input_ids=ids, labels=ids)
    actual = model(ids, labels=ids)
    assert_close(actual.logits, expected.logits)
    assert_close(actual.loss, expected.loss)
    assert actual.soft_prompt.shape == (2, 0, model.hidden_size)


@torch.no_grad()
def test_without_summaries_it_is_the_plain_model(family: str) -> None:
    base = tiny_base(family)
    assert_plain(AutoCompressor.from_base(base, summary_length=0), base)


@torch.no_grad()
def test_one_segment_alone_is_the_plain_model(family: str) -> None:
    model = compressor(family)
    assert_plain(model, model.base)


@torch.no_grad()
def test_without_summaries_segments_do_not_see_each_other(family: str) -> None:
    base = tiny_base(family)
    model, ids = AutoCompressor.from_base(base, summary_length=0), random_ids(2, 24)
    actual = model(ids, segment_lengths=[10, 14]).logits
    expected = [base(input_ids=segment).logits for segment in ids.split([10, 14], dim=1)]
    assert_close(actual, torch.cat(expected, dim=1))


@torch.no_grad()
def test_opt_with_projected_embeddings() -> None:
    """As in OPT-350m: summary vectors have the width of the embeddings, not of the layers."""
    sizes = {"vocab_size": 320, "hidden_size": 32, "ffn_dim": 64, "word_embed_proj_dim": 16, "num_hidden_layers": 2}
    base = random_base(OPTConfig(**sizes, num_attention_heads=4, do_layer_norm_before=False, dropout=0.0))
    assert_plain(AutoCompressor.from_base(base, summary_length=0), base)
    model = AutoCompressor.from_base(base, summary_length=3)
    vectors = model.compress(random_ids(1, 12), segment_lengths=6)
    assert vectors.shape == (1, 6, 16)
    assert model(random_ids(1, 5), soft_prompt=vectors).logits.shape == (1, 5, 320)


@pytest.mark.parametrize("is_training", [True, False])
def test_wrapping_leaves_the_mode_of_the_base(is_training: bool) -> None:
    base = tiny_base("llama").train(is_training)
    AutoCompressor.from_base(base, summary_length=2)
    assert base.training == is_training


# --- segments


@torch.no_grad()
@pytest.mark.parametrize("segment_lengths", [[7, 9, 8], 8, 10], ids=["list", "int", "int-with-rest"])
def test_one_call_is_segment_by_segment(
    family: str, accumulate_summary: bool, segment_lengths: list[int] | int
) -> None:
    model = compressor(family, accumulate_summary=accumulate_summary)
    ids, soft_prompt, made, logits = random_ids(2, 24), None, [], []
    for segment in ids.split(segment_lengths, dim=1):
        logits.append(model(segment, soft_prompt=soft_prompt).logits)
        made.append(model.compress(segment, soft_prompt=soft_prompt))
        soft_prompt = joined(model, soft_prompt, made[-1])

    assert_close(model.compress(ids, segment_lengths=segment_lengths), torch.cat(made, dim=1))
    output = model(ids, segment_lengths=segment_lengths, output_soft_prompt=True)
    assert_close(output.logits, torch.cat(logits, dim=1))
    assert_close(output.soft_prompt, soft_prompt)


@torch.no_grad()
def test_loss_is_one_mean_across_segments(family: str) -> None:
    """The first token of a segment is a target too, predicted from the last of the segment before it."""
    model, ids = compressor(family), random_ids(2, 20)
    labels = ids.clone()
    labels[0, :12] = -100
    output = model(ids, segment_lengths=[9, 11], labels=labels)
    log_probabilities = output.logits.log_softmax(dim=-1)
    of_targets = [
        log_probabilities[row, position - 1, labels[row, position]]
        for row in range(2)
        for position in range(1, 20)
        if labels[row, position] != -100
    ]
    assert len(of_targets) == 19 + 8
    assert_close(output.loss, -torch.stack(of_targets).mean())


@torch.no_grad()
def test_accumulated_summaries_stand_in_order(family: str) -> None:
    model, ids = compressor(family, summary_length=3), random_ids(2, 20)
    given = model.compress(random_ids(2, 8, seed=1))
    made = model.compress(ids, segment_lengths=[9, 11], soft_prompt=given)
    assert made.shape == (2, 6, model.hidden_size)

    with_last = model(ids, segment_lengths=[9, 11], soft_prompt=given, output_soft_prompt=True).soft_prompt
    assert_close(with_last, torch.cat([given, made], dim=1))
    without_last = model(ids, segment_lengths=[9, 11], soft_prompt=given).soft_prompt
    assert_close(without_last, torch.cat([given, made[:, :3]], dim=1))


@torch.no_grad()
def test_in_rmt_mode_the_newest_summary_replaces_all(family: str) -> None:
    model, ids = compressor(family, summary_length=3, accumulate_summary=False), random_ids(2, 20)
    given = model.compress(random_ids(2, 8, seed=1))
    made = model.compress(ids, segment_lengths=[9, 11], soft_prompt=given)
    assert made.shape == (2, 6, model.hidden_size)

    output = model(ids, segment_lengths=[9, 11], soft_prompt=given, output_soft_prompt=True)
    assert_close(output.soft_prompt, made[:, 3:])
    assert_close(model(ids, segment_lengths=[9, 11], soft_prompt=given).soft_prompt, made[:, :3])
    assert_close(output.logits[:, 9:], model(ids[:, 9:], soft_prompt=made[:, :3]).logits)


@torch.no_grad()
def test_both_modes_agree_on_the_first_segments_only(family: str) -> None:
    ids = random_ids(2, 24)
    accumulating, replacing = (compressor(family, accumulate_summary=mode) for mode in (True, False))
    one, other = (model.compress(ids, segment_lengths=8) for model in (accumulating, replacing))
    assert_close(one[:, :8], other[:, :8])
    assert not is_near(one[:, 8:], other[:, 8:])


# --- batches


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_rows_are_as_alone(family: str, accumulate_summary: bool, side: str) -> None:
    model = compressor(family, accumulate_summary=accumulate_summary)
    short, long = random_ids(1, 9, seed=1), random_ids(1, 14, seed=2)
    prompts = model.compress(random_ids(2, 8, seed=3))
    padding = torch.full((1, 5), 7)  # an ordinary token: only the mask says that it is none
    ids, mask = torch.cat([torch.cat([short, padding], dim=1), long]), torch.ones(2, 14, dtype=torch.long)
    mask[0, 9:] = 0
    cut, real = [7, 2], slice(0, 9)
    if side == "left":
        ids[0], mask[0] = torch.cat([padding, short], dim=1), mask[0].flip(0)
        cut, real = [2, 7], slice(5, 14)

    vectors = model.compress(ids, mask, [7, 7], prompts)
    assert_close(vectors[:1], model.compress(short, segment_lengths=cut, soft_prompt=prompts[:1]))
    assert_close(vectors[1:], model.compress(long, segment_lengths=[7, 7], soft_prompt=prompts[1:]))
    logits = model(ids, mask, [7, 7], prompts).logits
    assert_close(logits[:1, real], model(short, segment_lengths=cut, soft_prompt=prompts[:1]).logits)
    assert_close(logits[1:], model(long, segment_lengths=[7, 7], soft_prompt=prompts[1:]).logits)


@torch.no_grad()
def test_a_soft_prompt_of_one_row_serves_every_row(family: str) -> None:
    model, ids = compressor(family), random_ids(3, 10)
    one = model.compress(random_ids(1, 8, seed=1))
    every = one.repeat(3, 1, 1)
    assert_close(model(ids, soft_prompt=one).logits, model(ids, soft_prompt=every).logits)
    assert_close(model.compress(ids, soft_prompt=one), model.compress(ids, soft_prompt=every))
    options = {"segment_lengths": [4, 6], "max_new_tokens": 4}
    assert torch.equal(
        model.generate(ids, soft_prompt=one, **options), model.generate(ids, soft_prompt=every, **options)
    )


@torch.no_grad()
def test_an_empty_soft_prompt_is_none(family: str) -> None:
    model, ids = compressor(family), random_ids(2, 10)
    assert_close(model(ids, soft_prompt=model.empty_soft_prompt()).logits, model(ids).logits)


@torch.no_grad()
def test_summaries_of_documents_fuse_by_concatenation_in_order(family: str) -> None:
    model, ids = compressor(family), random_ids(1, 6)
    first, second = (model.compress(random_ids(1, 12, seed=seed)) for seed in (1, 2))

    def logits(*documents: Tensor) -> Tensor:
        return model(ids, soft_prompt=torch.cat(documents, dim=1)).logits

    assert not is_near(logits(first, second), logits(second, first))
    assert not is_near(logits(first, second), logits(second))
    assert not is_near(logits(first, second), logits(first))
    assert model.compress(ids, soft_prompt=torch.cat([first, second], dim=1)).shape == first.shape


# --- generation


def greedily(next_logits: Callable[[Tensor], Tensor], ids: Tensor, count: int) -> Tensor:
    for _ in range(count):
        ids = torch.cat([ids, next_logits(ids)[:, -1].argmax(dim=-1, keepdim=True)], dim=1)
    return ids


@torch.no_grad()
def test_generation_is_recomputing_everything(family: str) -> None:
    model, ids = compressor(family), random_ids(3, 9)
    soft_prompt = model.compress(random_ids(3, 16, seed=1), segment_lengths=8)
    expected = greedily(lambda tokens: model(tokens, soft_prompt=soft_prompt).logits, ids, 10)
    actual = model.generate(ids, soft_prompt=soft_prompt, max_new_tokens=10, eos_token_id=NO_END)
    assert actual.tolist() == expected.tolist()
    without = model.generate(ids, max_new_tokens=10, eos_token_id=NO_END)
    assert without.tolist() != expected.tolist()


@torch.no_grad()
def test_generation_of_left_padded_rows_is_as_alone(family: str) -> None:
    model, short, long = compressor(family), random_ids(1, 6, seed=1), random_ids(1, 10, seed=2)
    soft_prompt = model.compress(random_ids(2, 8, seed=3))
    ids, mask = torch.cat([torch.cat([torch.full((1, 4), 7), short], dim=1), long]), torch.ones(2, 10, dtype=torch.long)
    mask[0, :4] = 0
    options = {"max_new_tokens": 8, "eos_token_id": NO_END}
    together = model.generate(ids, mask, soft_prompt=soft_prompt, **options)
    assert together[0, 4:].tolist() == model.generate(short, soft_prompt=soft_prompt[:1], **options)[0].tolist()
    assert together[1].tolist() == model.generate(long, soft_prompt=soft_prompt[1:], **options)[0].tolist()


@torch.no_grad()
def test_generation_from_a_prompt_of_listed_segments(family: str, accumulate_summary: bool) -> None:
    model, ids = compressor(family, accumulate_summary=accumulate_summary), random_ids(2, 22)
    given = model.compress(random_ids(1, 8, seed=1))

    def logits(tokens: Tensor) -> Tensor:
        return model(tokens, segment_lengths=[8, 8, tokens.shape[1] - 16], soft_prompt=given).logits

    actual = model.generate(ids, segment_lengths=[8, 8, 6], soft_prompt=given, max_new_tokens=8, eos_token_id=NO_END)
    assert actual.tolist() == greedily(logits, ids, 8).tolist()


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "opt"])
@pytest.mark.parametrize("prompt_tokens", [5, 12, 14], ids=["short", "full-segments", "with-rest"])
def test_generation_with_a_segment_length_compresses_on_the_way(
    family: str, accumulate_summary: bool, prompt_tokens: int
) -> None:
    """Once 6 tokens stand since the last compression, the next token is still drawn from them in full."""
    model = compressor(family, accumulate_summary=accumulate_summary)
    ids = random_ids(2, prompt_tokens)
    *full, context = ids.split(6, dim=1)
    soft_prompt: Tensor | None = None
    for segment in full:
        soft_prompt = joined(model, soft_prompt, model.compress(segment, soft_prompt=soft_prompt))
    expected = ids
    for _ in range(15):
        chosen = model(context, soft_prompt=soft_prompt).logits[:, -1].argmax(dim=-1, keepdim=True)
        if context.shape[1] == 6:
            soft_prompt = joined(model, soft_prompt, model.compress(context, soft_prompt=soft_prompt))
            context = context[:, :0]
        context, expected = torch.cat([context, chosen], dim=1), torch.cat([expected, chosen], dim=1)

    actual = model.generate(ids, segment_lengths=6, max_new_tokens=15, eos_token_id=NO_END)
    assert actual.tolist() == expected.tolist()


def test_a_row_that_ended_is_filled_while_others_go_on() -> None:
    model, ids = compressor("llama"), random_ids(2, 9)
    free = model.generate(ids, max_new_tokens=8, eos_token_id=NO_END)
    end = int(free[0, 10])
    assert end not in [*free[0, 9:10].tolist(), *free[1, 9:].tolist()]
    actual = model.generate(ids, max_new_tokens=8, eos_token_id=end, pad_token_id=5)
    assert actual[0].tolist() == [*free[0, :11].tolist(), 5, 5, 5, 5, 5, 5]
    assert actual[1].tolist() == free[1].tolist()
    alone = model.generate(ids[:1], max_new_tokens=8, eos_token_id=end)
    assert alone.tolist() == free[:1, :11].tolist()


def test_the_base_names_the_token_that_ends_a_row() -> None:
    model, ids = compressor("llama"), random_ids(1, 9)
    free = model.generate(ids, max_new_tokens=8, eos_token_id=NO_END)
    end = int(free[0, 10])
    assert END_OF_TEXT_ID not in free[0, 9:]
    assert end != free[0, 9]
    model.base.config.eos_token_id = [end, END_OF_TEXT_ID]
    assert model.generate(ids, max_new_tokens=8).tolist() == free[:, :11].tolist()


def test_sampling_is_repeatable_and_narrows_to_greedy() -> None:
    model, ids = compressor("llama"), random_ids(2, 9)

    def sampled(seed: int, **options: float) -> list[list[int]]:
        generator = torch.Generator().manual_seed(seed)
        options = {"max_new_tokens": 8, "eos_token_id": NO_END, **options}
        return model.generate(ids, do_sample=True, generator=generator, **options).tolist()

    greedy = model.generate(ids, max_new_tokens=8, eos_token_id=NO_END).tolist()
    assert sampled(0) == sampled(0) != sampled(1)
    assert sampled(0) != greedy
    assert sampled(0, top_k=1) == sampled(0, top_p=1e-6) == sampled(0, temperature=1e-6) == greedy


# --- gradients


def gradient_of_summary_embeddings(model: AutoCompressor, targets: slice) -> Tensor:
    """The gradient of the loss of some tokens of 20, in segments of 9 and 11 that are both compressed."""
    model.zero_grad()
    ids = random_ids(2, 20)
    labels = torch.full_like(ids, -100)
    labels[:, targets] = ids[:, targets]
    model(ids, segment_lengths=[9, 11], labels=labels, output_soft_prompt=True).loss.backward()
    gradient = model.embed_summary.weight.grad
    return torch.zeros(4) if gradient is None else gradient.norm(dim=1)


def test_summary_embeddings_learn_from_later_segments_only(family: str) -> None:
    model = compressor(family)
    assert gradient_of_summary_embeddings(model, slice(1, 9)).max() == 0
    assert gradient_of_summary_embeddings(model, slice(9, 10)).max() == 0  # predicted from the first segment
    assert gradient_of_summary_embeddings(model, slice(10, 20)).min() > 1e-6  # every summary token learns


def test_gradients_cross_the_compression_of_a_segment(family: str, accumulate_summary: bool) -> None:
    """The tokens of the first of three segments learn from the loss of the last, in either mode."""
    model, embedded = compressor(family, accumulate_summary=accumulate_summary), []

    def keep(_module: torch.nn.Module, _inputs: object, output: Tensor) -> None:
        output.retain_grad()
        embedded.append(output)

    model.base.get_input_embeddings().register_forward_hook(keep)
    ids = random_ids(1, 18)
    labels = ids.clone()
    labels[:, :13] = -100
    model(ids, segment_lengths=6, labels=labels).loss.backward()
    assert len(embedded) == 3
    for earlier in embedded[:2]:
        assert earlier.grad.norm(dim=-1).min() > 1e-6
