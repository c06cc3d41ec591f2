"""Streamed text = whole text; no character split, no stop string shown."""

import random

import pytest

from server.engine.detokenizer import REPLACEMENT, Detokenizer
from tests.tiny import tiny_tokenizer

TEXTS = [
    "Plain words, and more of them.",
    "naïve café — “quotes” … 東京 🙂👩‍👩‍👧 fin",
    "  leading and trailing  \n\n\ttabs\n",
    "\u0301combining and \u200d joiners \U0001f1eb\U0001f1f7",
]


def streamed(detokenizer: Detokenizer, token_ids: list[int]) -> list[str]:
    return [*(detokenizer.add(token_id) for token_id in token_ids), detokenizer.flush()]


@pytest.mark.parametrize("text", TEXTS)
def test_streamed_equals_whole_and_no_character_is_split(text: str) -> None:
    token_ids = tiny_tokenizer()(text, add_special_tokens=False)["input_ids"]
    pieces = streamed(Detokenizer(tiny_tokenizer(), [], ()), token_ids)
    assert "".join(pieces) == text
    assert REPLACEMENT not in "".join(pieces)


def test_a_character_the_prompt_began_is_finished() -> None:
    token_ids = tiny_tokenizer()("🙂", add_special_tokens=False)["input_ids"]
    assert len(token_ids) > 1
    pieces = streamed(Detokenizer(tiny_tokenizer(), token_ids[:-1], ()), token_ids[-1:])
    assert "".join(pieces) == "🙂"


@pytest.mark.parametrize("seed", range(20))
def test_any_tokens_give_the_text_of_decoding_them_at_once(seed: int) -> None:
    """Random bytes are mostly not UTF-8: the stream neither stalls nor raises, and what is text stays text."""
    generator = random.Random(seed)
    token_ids = [generator.randrange(1, len(tiny_tokenizer())) for _ in range(200)]
    text = "".join(streamed(Detokenizer(tiny_tokenizer(), [], ()), token_ids))
    whole = tiny_tokenizer().decode(token_ids, skip_special_tokens=True)
    assert text == whole


def test_a_stop_string_across_tokens_ends_the_text_before_it() -> None:
    token_ids = tiny_tokenizer()("one two three four", add_special_tokens=False)["input_ids"]
    detokenizer = Detokenizer(tiny_tokenizer(), [], ("two th",))
    shown = ""
    for token_id in token_ids:
        shown += detokenizer.add(token_id)
        if detokenizer.is_stopped:
            break
    assert detokenizer.is_stopped
    assert shown + detokenizer.flush() == "one "


def test_what_only_began_like_a_stop_string_is_shown() -> None:
    token_ids = tiny_tokenizer()("abc abd", add_special_tokens=False)["input_ids"]
    assert "".join(streamed(Detokenizer(tiny_tokenizer(), [], ("abcd", "abe")), token_ids)) == "abc abd"


def test_the_earliest_of_several_stop_strings_cuts() -> None:
    token_ids = tiny_tokenizer()("a b c d", add_special_tokens=False)["input_ids"]
    detokenizer = Detokenizer(tiny_tokenizer(), [], ("d", "b"))
    assert "".join(streamed(detokenizer, token_ids)) == "a "
