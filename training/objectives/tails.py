"""What a distilled row ends with; questions and answers stand in a tokenizer's chat template where it has one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from operator import eq
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase


class Question(NamedTuple):
    text: str
    answer: str


@dataclass(frozen=True)
class Tail:
    """Tokens, and which of them are of answers: of each its words and what ends its turn."""

    ids: list[int]
    is_answer: list[bool]

    def then(self, ids: Sequence[int], *, is_answer: bool = False) -> "Tail":
        """These tokens after it."""
        return Tail([*self.ids, *ids], [*self.is_answer, *[is_answer] * len(ids)])

    def cut(self, num_tokens: int) -> "Tail":
        return Tail(self.ids[:num_tokens], self.is_answer[:num_tokens])


def conversation(tokenizer: PreTrainedTokenizerBase, questions: Sequence[Question]) -> Tail:
    """Questions, each with its answer, which is tokenised for itself as one that is generated is."""
    tail = Tail([], [])
    for asked, answered in _turns(tokenizer, questions):
        tail = tail.then(encoded(tokenizer, asked)).then(encoded(tokenizer, answered), is_answer=True)
    return tail


def _turns(tokenizer: PreTrainedTokenizerBase, questions: Sequence[Question]) -> Iterator[tuple[str, str]]:
    """What a conversation grows by with each question, up to where the answer begins and from there."""
    messages: list[dict[str, str]] = []
    before = ""
    for text, answer in questions:
        if tokenizer.chat_template is None:
            yield f"\n\nQuestion: {text}\nAnswer: ", answer
            continue
        messages.append({"role": "user", "content": text})
        asked = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        messages.append({"role": "assistant", "content": answer})
        whole = str(tokenizer.apply_chat_template(messages, tokenize=False))
        begins = sum(takewhile(bool, map(eq, asked, whole)))  # as far as they are alike
        yield whole[len(before) : begins], whole[begins:]
        before = whole


def request(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """A request up to where its answer begins, as tokens."""
    if tokenizer.chat_template is None:
        return encoded(tokenizer, f"\n\nQuestion: {text}\nAnswer: ")
    messages = [{"role": "user", "content": text}]
    return encoded(tokenizer, str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)))


def encoded(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids
