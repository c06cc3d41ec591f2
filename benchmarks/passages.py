"""Passages of a corpus, and questions of which one passage is the answer: words of it."""

import io
import json
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import zstandard

CHAPTER = Path(__file__).parents[1] / "examples" / "chapter.txt"
OF_A_DOCUMENT = 32  # passages of one document at most, so that many documents are there
WORD = re.compile(r"[A-Za-z]{2,}")
SENTENCE_WORDS, RARE_WORDS = 12, 4
KINDS = ("rare words", "sentence")


@dataclass(frozen=True)
class Question:
    """`kind`: one of `KINDS`. `passage`: the number of the one that it is of."""

    kind: str
    text: str
    passage: int


def cut(corpus: Path | None, number: int, num_words: int) -> list[str]:
    """So many different passages of so many words.

    Args:
        corpus: a folder of `DOMAIN.SPLIT.jsonl.zst` with a `text` a line, of which train and valid are read; without
            one sentences of the bundled chapter are shuffled, a made-up name in each passage.

    Raises:
        ValueError: the corpus has fewer.
    """
    source = _shuffled(num_words) if corpus is None else _cut(_documents(corpus), num_words)
    found = list(islice(_different(source), number))
    if len(found) < number:
        raise ValueError(f"{corpus} has {len(found)} passages of {num_words} words, and {number} are wanted")
    return found


def questions(passages: Sequence[str], number: int) -> list[Question]:
    """Of each of `number` drawn passages two: a run of its words, and the rarest words of that run."""
    draw = random.Random(0)
    frequency: Counter[str] = Counter()
    for passage in passages:
        frequency.update(set(WORD.findall(passage.lower())))
    asked = []
    for passage in draw.sample(range(len(passages)), min(number, len(passages))):
        words = passages[passage].split()
        start = draw.randrange(max(1, len(words) - SENTENCE_WORDS))
        sentence = " ".join(words[start : start + SENTENCE_WORDS])
        known = dict.fromkeys(WORD.findall(sentence.lower()))
        rare = sorted(known, key=lambda word: frequency[word])[:RARE_WORDS]
        if len(rare) == RARE_WORDS:
            asked.append(Question(KINDS[0], " ".join(word for word in known if word in rare), passage))
            asked.append(Question(KINDS[1], sentence, passage))
    return asked


def _documents(corpus: Path) -> Iterator[str]:
    # prose first; the out-of-domain test splits are for others
    files = sorted([*corpus.glob("*.valid.jsonl.zst"), *corpus.glob("*.train.jsonl.zst")], key=lambda path: path.name)
    reader = zstandard.ZstdDecompressor(max_window_size=2**27)
    for file in files:
        with file.open("rb") as raw, reader.stream_reader(raw) as stream:
            for line in io.TextIOWrapper(stream, encoding="utf-8", newline="\n"):
                yield json.loads(line)["text"]


def _cut(documents: Iterator[str], num_words: int) -> Iterator[str]:
    for document in documents:
        words = document.split()
        step = max(num_words, len(words) // OF_A_DOCUMENT)
        for start in range(0, len(words) - num_words, step):
            yield " ".join(words[start : start + num_words])


def _shuffled(num_words: int) -> Iterator[str]:
    draw = random.Random(1)
    sentences = [" ".join(each.split()) for each in re.split(r"(?<=[.!?])\s", CHAPTER.read_text())]
    while True:
        name = "".join(draw.choice("bdfgklmnprstvz") + draw.choice("aeiou") for _ in range(4)).capitalize()
        words = [name, *(word for each in draw.sample(sentences, 12) for word in each.split())]
        place = draw.randrange(num_words)
        yield " ".join([*words[1 : place + 1], name, *words[place + 1 : num_words]])


def _different(passages: Iterator[str]) -> Iterator[str]:
    seen = set()
    for passage in passages:
        if passage not in seen:
            seen.add(passage)
            yield passage
