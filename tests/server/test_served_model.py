"""The start token, of a tokenizer that has one: before the first text of a context and nowhere else."""

from dataclasses import replace
from typing import Any

import pytest
from tokenizers import Tokenizer, processors
from transformers import PreTrainedTokenizerFast

from server.core.served_model import ServedModel
from server.errors import InvalidRequest
from tests.server.test_compression import served_model
from tests.tiny import tiny_tokenizer


@pytest.fixture(scope="module")
def model() -> ServedModel:
    copied: Any = Tokenizer.from_str(tiny_tokenizer().backend_tokenizer.to_str())
    copied.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    return replace(served_model(), tokenizer=PreTrainedTokenizerFast(tokenizer_object=copied))


def test_only_the_first_text_has_the_start_token(model: ServedModel) -> None:
    first, later = model.tokenise("a b", is_start=True), model.tokenise("a b", is_start=False)
    assert first == [0, *later]
    assert 0 not in later


@pytest.mark.parametrize("template", ["$A <|endoftext|>", "<|endoftext|> $A <|endoftext|>"])
def test_no_text_ends_with_the_end_token_that_a_tokenizer_appends(model: ServedModel, template: str) -> None:
    """Prompts ended with it, so that what was generated began after an end; and documents' last segments."""
    copied: Any = Tokenizer.from_str(tiny_tokenizer().backend_tokenizer.to_str())
    copied.post_processor = processors.TemplateProcessing(single=template, special_tokens=[("<|endoftext|>", 0)])
    ending = replace(model, tokenizer=PreTrainedTokenizerFast(tokenizer_object=copied))
    for text in ("a b", "", "a<|endoftext|>"):
        bare = ending.tokenise(text, is_start=False)
        expected = [0, *bare] if template.startswith("<") else bare
        assert ending.tokenise(text, is_start=True) == expected
    assert ending.tokenise_document("a b", is_start=True)[-1] != 0


def test_vectors_of_a_document(model: ServedModel) -> None:
    rmt = served_model(accumulate_summary=False)
    assert (model.num_vectors_of((4, 4, 1)), rmt.num_vectors_of((4, 4, 1)), rmt.num_vectors_of(())) == (6, 2, 0)


@pytest.mark.parametrize("token_id", [-1, 1000, 2**80])
def test_unknown_ids_are_named(model: ServedModel, token_id: int) -> None:
    with pytest.raises(InvalidRequest, match=f"token id {token_id} is outside the vocabulary of 1000"):
        model.require_known([5, token_id, 7], param="token_ids")
