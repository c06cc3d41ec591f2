"""Tails that recite are of the segment's own tokens; those that ask have their answers in its text."""

import random
import re
from itertools import islice

import pytest
from transformers import PreTrainedTokenizerFast

from tests.tiny import TEXT, tiny_tokenizer
from training.objectives.asking import ask_about, question_of
from training.objectives.reciting import RUN_TOKENS, recite, runs
from training.objectives.tails import Question, Tail, conversation, request

CODE = (
    "\nWe begin here with a sentence of code.\ndef count_ships(first_day, last_day=None):\n    return sum(shipsByDay)\n"
)
OTHER = "Paris and London in 1815 were not what Waterloo made of them afterwards."
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def templated() -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer().backend_tokenizer)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def contains(segment: list[int], run: list[int]) -> bool:
    return any(segment[start : start + len(run)] == run for start in range(len(segment) - len(run) + 1))


@pytest.mark.parametrize("length", [1, 20, 200])
def test_recited_rows_are_runs_of_the_segment(length: int) -> None:
    segment = [random.Random(1).randrange(1, 300) for _ in range(length)]
    drawn = list(islice(runs(segment, tiny_tokenizer(), random.Random(0)), 60))
    assert all(contains(segment, run) for _, run in drawn)
    assert {len(run) for _, run in drawn} == {min(length, tokens) for tokens in RUN_TOKENS}
    flat = [token for cue, run in drawn for token in (*cue, *run)]
    assert recite(segment, 100, tiny_tokenizer(), random.Random(0)).ids == flat[:100]


def test_nothing_to_recite() -> None:
    with pytest.raises(ValueError, match="0 tokens"):
        recite([], 10, tiny_tokenizer(), random.Random(0))


KINDS = ("Fill in", "Complete the", "Which word", "What comes", "How does", "Repeat the", "Quote the", "According to")
KINDS += ("Answer in", "From the")


@pytest.mark.parametrize("text", [TEXT, TEXT + CODE], ids=["prose", "with code"])
def test_every_answer_is_in_the_text(text: str) -> None:
    asked = [question_of(text, OTHER, random.Random(seed)) for seed in range(1600)]
    kinds: set[str] = set()
    for question in filter(None, asked):
        mentioned = re.fullmatch(r"Does the text mention (.*)\?", question.text)
        if mentioned:
            assert question.answer == ("Yes" if mentioned[1] in text else "No")
            kinds.add(question.answer)
        else:
            assert question.answer in text
            kinds |= {kind for kind in KINDS if question.text.startswith(kind)}
    assert kinds == {"Yes", "No", *KINDS}
    parameters = Question("What are the parameters of count_ships?", "first_day, last_day=None")
    assert (parameters in asked) is (CODE in text)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("1874", {"what year", "which year"}),
        ("90", {"how many", "which number", "what number"}),
        ("max_rows", {"which name"}),
        ("Great Fire", {"who or what", "who", "what", "which name"}),
    ],
)
def test_question_words_stand_where_their_answer_stood(answer: str, words: set[str]) -> None:
    around = "nothing else was written of it then and there"
    text = f"{around}. the record of {answer} was kept in a tower. {around}."
    drawn = [question_of(text, "", random.Random(seed)) for seed in range(300)]
    pattern = re.compile(r".*the record of (.+) was kept in a tower\?")
    asked = [pattern.fullmatch(each.text) for each in drawn if each is not None and each.answer == answer]
    assert {found[1] for found in asked if found is not None} == words


def test_a_text_without_sentences_is_not_asked_about() -> None:
    assert ask_about("...", "...", 50, tiny_tokenizer(), random.Random(0)).ids == []


@pytest.mark.parametrize("tokenizer", [tiny_tokenizer(), templated()], ids=["plain", "chat template"])
def test_tails_have_the_tokens_asked_for(tokenizer: PreTrainedTokenizerFast) -> None:
    asked = ask_about(TEXT, OTHER, 200, tokenizer, random.Random(0))
    assert len(asked.ids) == len(asked.is_answer) == 200
    assert len(recite([5, 6, 7], 200, tokenizer, random.Random(0)).ids) == 200


def test_conversations_follow_the_template() -> None:
    pairs = [Question("Who counts?", "The keeper"), Question("What?", "Ships")]
    tokenizer = templated()
    expected = "<user>Who counts?<assistant>The keeper<user>What?<assistant>Ships"
    turns = conversation(tokenizer, pairs)
    assert tokenizer.decode(turns.ids) == expected
    assert answers(tokenizer, turns) == "The keeperShips"
    assert tokenizer.decode(request(tokenizer, "Repeat.")) == "<user>Repeat.<assistant>"
    plain = conversation(tiny_tokenizer(), pairs)
    expected = "\n\nQuestion: Who counts?\nAnswer: The keeper\n\nQuestion: What?\nAnswer: Ships"
    assert tiny_tokenizer().decode(plain.ids) == expected
    assert answers(tiny_tokenizer(), plain) == "The keeperShips"


def answers(tokenizer: PreTrainedTokenizerFast, tail: Tail) -> str:
    chosen = [token for token, is_answer in zip(tail.ids, tail.is_answer, strict=True) if is_answer]
    return str(tokenizer.decode(chosen))
