"""Paragraphs with questions, and how an answer is judged."""

import json
import re
import string
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.bench.reader import Reader

ARTICLES = re.compile(r"\b(a|an|the)\b")


@dataclass(frozen=True)
class Question:
    text: str
    answer: str


@dataclass(frozen=True)
class Paragraph:
    text: str
    questions: tuple[Question, ...]


def read_paragraphs(path: Path, least: int = 1) -> list[Paragraph]:
    """Read JSONL of `{"context", "questions": [{"question", "answer"}]}`.

    Raises:
        ValueError: there is no such file, a line is something else, or there are fewer than `least` paragraphs.
    """
    if not path.is_file():
        raise ValueError(f"there is no file of questions {path}; --questions names one")
    paragraphs = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            paragraphs.append(_paragraph(json.loads(line)))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f'{path}, line {number}: expected "context" and "questions" of a paragraph') from error
    if len(paragraphs) < least:
        raise ValueError(f"{path} has {len(paragraphs)} paragraphs; {least} are the least")
    return paragraphs


def _paragraph(record: dict[str, Any]) -> Paragraph:
    questions = tuple(Question(str(each["question"]), str(each["answer"])) for each in record["questions"])
    return Paragraph(str(record["context"]), questions)


# --- asking


def asked(reader: Reader, question: str, before: str = "") -> list[int]:
    """The tokens up to where the answer begins: a turn of the chat template, or plain words for a model without one.

    Args:
        before: stands in the same turn before the question.
    """
    content = f"{before}\n\n{question}" if before else question
    if reader.tokenizer.chat_template is None:
        return reader.encode(f"\n\n{content}\nAnswer:")
    turn = [{"role": "user", "content": content}]
    text = reader.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    return reader.encode(str(text))


def answered(reader: Reader, answer: str) -> list[int]:
    """The tokens of an answer there."""
    return reader.encode(answer if reader.tokenizer.chat_template is not None else f" {answer}")


# --- judging, as SQuAD's evaluation script does (arXiv 1606.05250)


def normalised(text: str) -> str:
    """In lower case, without punctuation, articles and surplus blanks."""
    plain = "".join(sign for sign in text.lower() if sign not in string.punctuation)
    return " ".join(ARTICLES.sub(" ", plain).split())


def f1(answer: str, gold: str) -> float:
    """Harmonic mean of precision and recall of the words."""
    words, expected = normalised(answer).split(), normalised(gold).split()
    if not words or not expected:
        return float(words == expected)
    shared = sum((Counter(words) & Counter(expected)).values())
    return 2 * shared / (len(words) + len(expected))


def is_contained(answer: str, gold: str) -> bool:
    """Whether the words of the gold answer stand in the answer, in their order."""
    return f" {normalised(gold)} " in f" {normalised(answer)} "
