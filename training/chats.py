"""Questions and answers as text, in a tokenizer's chat template where it has one."""

from collections.abc import Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase


class Question(NamedTuple):
    text: str
    answer: str


def conversation(tokenizer: PreTrainedTokenizerBase, questions: Sequence[Question]) -> list[int]:
    """Questions, each with its answer, as tokens."""
    if tokenizer.chat_template is None:
        return encoded(tokenizer, "".join(f"\n\nQuestion: {text}\nAnswer: {answer}" for text, answer in questions))
    messages = [
        {"role": role, "content": content}
        for question in questions
        for role, content in (("user", question.text), ("assistant", question.answer))
    ]
    return encoded(tokenizer, str(tokenizer.apply_chat_template(messages, tokenize=False)))


def request(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """A request up to where its answer begins, as tokens."""
    if tokenizer.chat_template is None:
        return encoded(tokenizer, f"\n\nQuestion: {text}\nAnswer: ")
    messages = [{"role": "user", "content": text}]
    return encoded(tokenizer, str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)))


def encoded(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids
