"""Questions on paragraphs: what vectors keep of the answers, and what text put back among them adds."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from training.bench.figure import Line, Panel
from training.bench.options import Options
from training.bench.outcome import Number, Outcome, Table
from training.bench.parts import Part, best_parts, mixed, parts_at
from training.bench.prefix import Ending, Prefix
from training.bench.questions import Paragraph, Question, answered, asked, f1, is_contained, read_paragraphs
from training.bench.reader import Reader
from training.bench.suites.qa_chat import Chats
from training.bench.tally import NONE, loss, percent, share
from training.evaluation.intervals import ratio as mean_of
from training.evaluation.scores import DocumentScore

GROUP = 3  # paragraphs of one context
RATIOS = (4, 8, 16)
BEST = 2  # parts put back as text
FULL = "in full"
BEST_ALONE = f"the best {BEST} parts alone"
ANSWERS, CHATS = 40, 40  # at most: greedy answers, and questions asked by chat
ANSWER_TOKENS = 32
ANSWERED = (NONE, FULL, BEST_ALONE, "8x", "8x, short segments, 2 in full")
PARTS_OF_SEGMENT = 4  # a part is so much shorter than the model's segment


@dataclass(frozen=True)
class Group:
    """Paragraphs read as one context, (L,) ids, and the questions on them."""

    ids: Tensor
    questions: Sequence[Question]

    @classmethod
    def of(cls, reader: Reader, paragraphs: Sequence[Paragraph]) -> "Group":
        text = "\n\n".join(paragraph.text for paragraph in paragraphs) + "\n\n"
        questions = [question for paragraph in paragraphs for question in paragraph.questions]
        return cls(torch.tensor(reader.encode(text)), questions)


@dataclass(frozen=True)
class Form:
    """How a question is given its context: a soft prompt and raw text after it."""

    name: str
    soft_prompt: Tensor | None
    ids: Tensor | None = None

    @property
    def positions(self) -> int:
        return sum(len(each) for each in (self.soft_prompt, self.ids) if each is not None)


def groups_of(reader: Reader, paragraphs: Sequence[Paragraph], num_questions: int, seed: int) -> list[Group]:
    """Groups of three paragraphs, drawn by the seed, until they have so many questions."""
    order = np.random.default_rng(seed).permutation(len(paragraphs))
    groups: list[Group] = []
    for start in range(0, len(order) - GROUP + 1, GROUP):
        if sum(len(group.questions) for group in groups) >= num_questions:
            break
        groups.append(Group.of(reader, [paragraphs[number] for number in order[start : start + GROUP]]))
    return groups


def forms(reader: Reader, group: Group) -> Iterator[tuple[Form, list[int]]]:
    """Every form of the context, with the numbers of the questions that are asked after it."""
    everyone = list(range(len(group.questions)))
    yield Form(NONE, None), everyone
    yield Form(FULL, None, group.ids), everyone
    short, is_first = max(1, reader.model.segment_length // PARTS_OF_SEGMENT), True
    for ratio in RATIOS:
        whole, parts = parts_at(reader, group.ids, ratio), parts_at(reader, group.ids, ratio, short)
        if whole is not None:
            yield vectors_of(reader, f"{ratio}x", whole), everyone
        if parts is None or len(parts) <= BEST:
            continue
        yield vectors_of(reader, f"{ratio}x, short segments", parts), everyone
        for chosen, numbers in _by_best(reader, parts, group.questions).items():
            if is_first:
                yield Form(BEST_ALONE, None, torch.cat([parts[number].ids for number in chosen])), numbers
            if reader.can_mix():
                yield vectors_of(reader, put_back(ratio), parts, chosen), numbers
        is_first = False


def vectors_of(reader: Reader, name: str, parts: Sequence[Part], in_full: Sequence[int] = ()) -> Form:
    return Form(name, mixed(reader, parts, in_full))


def put_back(ratio: int) -> str:
    return f"{ratio}x, short segments, {BEST} in full"


def _by_best(reader: Reader, parts: Sequence[Part], questions: Sequence[Question]) -> dict[tuple[int, ...], list[int]]:
    """The numbers of the questions by the parts that are best for them."""
    found: dict[tuple[int, ...], list[int]] = {}
    for number, chosen in enumerate(best_parts(reader, parts, [question.text for question in questions], BEST)):
        found.setdefault(chosen, []).append(number)
    return found


@dataclass
class Tally:
    """Sums of one form over groups.

    Attributes:
        nll, tokens: of answers, by group. positions: of each question. f1, right, answers: of greedy answers, by group.
    """

    nll: dict[int, float] = field(default_factory=dict)
    tokens: dict[int, int] = field(default_factory=dict)
    positions: list[int] = field(default_factory=list)
    f1: dict[int, list[float]] = field(default_factory=dict)
    right: dict[int, list[float]] = field(default_factory=dict)

    def add(self, group: int, losses: Sequence[Tensor], positions: int) -> None:
        self.nll[group] = self.nll.get(group, 0.0) + float(sum(each.sum() for each in losses))
        self.tokens[group] = self.tokens.get(group, 0) + sum(len(each) for each in losses)
        self.positions += [positions] * len(losses)

    def judge(self, group: int, answer: str, gold: str) -> None:
        self.f1.setdefault(group, []).append(f1(answer, gold))
        self.right.setdefault(group, []).append(float(is_contained(answer, gold)))

    def scores(self) -> list[DocumentScore]:
        return [DocumentScore(group, round(nll, 4), self.tokens[group]) for group, nll in sorted(self.nll.items())]


def run(reader: Reader, options: Options) -> Outcome:
    paragraphs = read_paragraphs(options.questions or options.data, least=GROUP)
    groups = groups_of(reader, paragraphs, options.number, options.seed)
    num_questions = sum(len(group.questions) for group in groups)
    every = max(1, num_questions // ANSWERS)
    tallies: dict[str, Tally] = {}
    asked_before = 0
    with tqdm(total=num_questions, unit=" questions", desc=options.suite) as progress:
        for number, group in enumerate(groups):
            given = list(forms(reader, group))
            _measure(reader, group, number, given, tallies)
            of_group = [i for i in range(len(group.questions)) if (asked_before + i) % every == 0]
            _answer(reader, group, number, given, of_group, tallies)
            asked_before += len(group.questions)
            progress.update(len(group.questions))
    chats = Chats.held(reader, paragraphs, min(CHATS, options.number), seed=options.seed)
    scores = {name: tally.scores() for name, tally in tallies.items()}
    num_answers = sum(map(len, tallies[NONE].f1.values()))
    notes = [
        f"{num_questions} questions on {len(groups)} contexts of {GROUP} paragraphs. After the context comes "
        f"{'the chat template' if reader.tokenizer.chat_template else 'a plain prompt'} with the question. Retained: "
        f"(none - form) / (none - in full) of the loss of the answer's tokens. Short segments are of "
        f"{max(1, reader.model.segment_length // PARTS_OF_SEGMENT)} tokens, but of summary tokens as the ratio gives "
        f"them; the {BEST} that BM25 finds for the question are put back as text in their place, or, alone, are all "
        f"that is read. F1 and right (the words of the answer are contained) are of {num_answers} greedy answers of at "
        f"most {ANSWER_TOKENS} tokens.",
        chats.note,
    ]
    return Outcome(
        heading="answers to questions on paragraphs",
        counted="questions (the last group whole)",
        notes=notes,
        tables=[_table(tallies), chats.table()],
        panels=[
            Panel(
                "retained loss of answers",
                "tokens a vector",
                "share",
                [
                    Line(label, [(ratio, share(scores, name(ratio), FULL)) for ratio in RATIOS])
                    for label, name in (
                        ("vectors", lambda ratio: f"{ratio}x"),
                        ("short segments", lambda ratio: f"{ratio}x, short segments"),
                        (f"{BEST} put back", put_back),
                    )
                ],
                is_logarithmic=True,
            )
        ],
        measured={
            "forms": {
                name: {"nll": tally.nll, "tokens": tally.tokens, "f1": tally.f1, "right": tally.right}
                for name, tally in tallies.items()
            },
            "chat": chats.as_json(),
        },
    )


Given = Sequence[tuple[Form, list[int]]]


def _measure(reader: Reader, group: Group, number: int, given: Given, tallies: dict[str, Tally]) -> None:
    endings = []
    for question in group.questions:
        answer = answered(reader, question.answer)
        endings.append(Ending([*asked(reader, question.text), *answer], len(answer)))
    for form, numbers in given:
        if not reader.fits(form.positions, 0):
            continue
        prefix = Prefix.read(reader, () if form.ids is None else form.ids, form.soft_prompt)
        losses = prefix.losses([endings[each] for each in numbers])
        if losses is not None:
            tallies.setdefault(form.name, Tally()).add(number, losses, form.positions)


def _answer(
    reader: Reader, group: Group, number: int, given: Given, questions: Sequence[int], tallies: dict[str, Tally]
) -> None:
    """Judge greedy answers to the questions of these numbers, of the forms that are answered."""
    for form, numbers in given:
        if form.name not in ANSWERED:
            continue
        for each in sorted(set(numbers) & set(questions)):
            before = [] if form.ids is None else form.ids.tolist()
            ids = [*before, *asked(reader, group.questions[each].text)]
            if reader.fits(0 if form.soft_prompt is None else len(form.soft_prompt), len(ids) + ANSWER_TOKENS):
                answer = reader.answer(ids, form.soft_prompt, ANSWER_TOKENS)
                tallies.setdefault(form.name, Tally()).judge(number, answer, group.questions[each].answer)


def _table(tallies: dict[str, Tally]) -> Table:
    scores = {name: tally.scores() for name, tally in tallies.items() if tally.nll}
    rows = []
    for name, tally in tallies.items():
        rows.append(
            [
                name,
                f"{np.mean(tally.positions):.0f}" if tally.positions else None,
                loss(scores, name),
                percent(share(scores, name, FULL)),
                _mean(tally.f1, "{:.1%}"),
                _mean(tally.right, "{:.0%}"),
            ]
        )
    header = ["context", "positions", "loss of answers", "retained", "F1", "right"]
    return Table("Answers by the form of the context", header, rows)


def _mean(found: dict[int, list[float]], form: str) -> Number | None:
    if not found:
        return None
    sums = np.array([sum(each) for each in found.values()])
    return Number(mean_of(sums, np.array([len(each) for each in found.values()])), form)
