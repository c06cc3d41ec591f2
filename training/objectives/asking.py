"""Tails that ask about a segment: questions by templates, each followed by its answer in the segment's own words.

The teacher, which has the segment in full, says how likely each token is; an answer only has to be of the segment.
"""

import random
import re
from collections.abc import Callable

from transformers import PreTrainedTokenizerBase

from training.objectives.tails import Question, Tail, conversation

MAX_TRIES = 60  # a draw that finds nothing to ask about is made again
SENTENCE_CHARACTERS = range(31, 300)
BREAK = re.compile(r"(?<=[.!?;:])\s+|\n+")
# names, numbers, and identifiers of code
TELLING = re.compile(r"\b(?:[A-Z][a-z]{2,}(?: [A-Z][a-z]+)*|\d[\d,.]*\d|\d+|[a-z_]+_[a-z_]+|[A-Za-z]+[A-Z][A-Za-z]+)\b")
YEAR = re.compile(r"1\d{3}|20\d\d")
FUNCTION = re.compile(r"(?:def|func|fn|function) (\w+)\s*\(([^)]{3,80})\)")
BLANKS = ("Fill in the blank: {}", "Complete the sentence from the text: {}", "Which word is missing? {}")
ASKED = ("{}", "According to the text, {}", "Answer in a few words: {}", "From the text above: {}")
NEXT_WORDS = ('What comes after "{}"?', 'How does the text go on after "{}"?')
SENTENCES = ('Repeat the sentence that begins with "{}".', 'Quote the sentence starting with "{}".')


def question_of(text: str, other: str, generator: random.Random) -> Question | None:
    """One about a text, or None where the draw found nothing to ask about.

    Args:
        other: another text, for names to ask after that the first may not have.
    """
    if generator.random() < MENTIONED:
        return _mention(text, other, generator)
    # the first and the last are cut off
    sentences = [part for part in BREAK.split(text) if len(part) in SENTENCE_CHARACTERS][1:-1]
    if not sentences:
        return None
    (ask,) = generator.choices([ask for _, ask in ABOUT_SENTENCES], [share for share, _ in ABOUT_SENTENCES])
    return ask(generator.choice(sentences).strip(), text, generator)


def ask_about(
    text: str, other: str, num_tokens: int, tokenizer: PreTrainedTokenizerBase, generator: random.Random
) -> Tail:
    """Questions with their answers, at most so many tokens; fewer where there is too little to ask about."""
    questions: list[Question] = []
    tail = Tail([], [])
    for _ in range(MAX_TRIES):
        question = question_of(text, other, generator)
        if question is None:
            continue
        questions.append(question)
        tail = conversation(tokenizer, questions)
        if len(tail.ids) >= num_tokens:
            break
    return tail.cut(num_tokens)


def _blank(sentence: str, text: str, generator: random.Random) -> Question | None:  # noqa: ARG001  # one of several
    found = _telling(sentence, generator)
    if found is None:
        return None
    blank = f"{sentence[: found.start()]}____{sentence[found.end() :]}"
    return Question(generator.choice(BLANKS).format(blank), found.group())


def _asked(sentence: str, text: str, generator: random.Random) -> Question | None:  # noqa: ARG001
    """A sentence with a question word where its name or number stood."""
    found = _telling(sentence, generator)
    if found is None:
        return None
    word = _question_word(found.group(), generator)
    asked = f"{sentence[: found.start()]}{word}{sentence[found.end() :]}".rstrip(".;:,!? ")
    return Question(generator.choice(ASKED).format(f"{asked}?"), found.group())


def _question_word(answer: str, generator: random.Random) -> str:
    if YEAR.fullmatch(answer):
        return generator.choice(("which year", "what year"))
    if answer[0].isdigit():
        return generator.choice(("how many", "which number", "what number"))
    if "_" in answer or not answer.istitle():
        return "which name"
    return generator.choice(("who or what", "who", "what", "which name"))


def _next_words(sentence: str, text: str, generator: random.Random) -> Question | None:  # noqa: ARG001
    words = [found.span() for found in re.finditer(r"\S+", sentence)]
    if len(words) < 9:
        return None
    first = generator.randrange(len(words) - 7)
    last = min(first + 11, len(words) - 1)
    before = sentence[words[first][0] : words[first + 3][1]]
    return Question(generator.choice(NEXT_WORDS).format(before), sentence[words[first + 4][0] : words[last][1]])


def _sentence(sentence: str, text: str, generator: random.Random) -> Question | None:  # noqa: ARG001
    words = sentence.split()
    if len(words) < 6:
        return None
    return Question(generator.choice(SENTENCES).format(" ".join(words[:3])), sentence)


def _parameters_or_next(sentence: str, text: str, generator: random.Random) -> Question | None:
    functions = FUNCTION.findall(text)
    if functions:
        name, parameters = generator.choice(functions)
        return Question(f"What are the parameters of {name}?", parameters)
    found = _telling(sentence, generator)
    before = "" if found is None else " ".join(sentence[: found.start()].split()[-4:])
    return Question(f'What follows the words "{before}"?', found.group()) if found and before else None


def _mention(text: str, other: str, generator: random.Random) -> Question | None:
    names = TELLING.findall(text if generator.random() < 0.5 else other)
    if not names:
        return None
    name = generator.choice(names)
    return Question(f"Does the text mention {name}?", "Yes" if name in text else "No")


def _telling(sentence: str, generator: random.Random) -> re.Match[str] | None:
    """A name or number of a sentence, but for its first word, which is written large anyway."""
    found = [each for each in TELLING.finditer(sentence) if each.start() > 0]
    return generator.choice(found) if found else None


MENTIONED = 0.15  # the share of questions that are answered yes or no
ABOUT_SENTENCES: tuple[tuple[float, Callable[[str, str, random.Random], Question | None]], ...] = (
    (0.20, _blank),
    (0.30, _asked),
    (0.15, _next_words),
    (0.10, _sentence),
    (0.10, _parameters_or_next),
)
