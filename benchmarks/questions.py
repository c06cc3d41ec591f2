"""E4, E5, E11: questions on stored documents, against reading their text."""

import asyncio
import time
from collections.abc import Iterator, Sequence

from benchmarks.measuring import Row, Spread, compared, ratios, take_turns
from benchmarks.subject import SEGMENT_LENGTH, Subject, random_ids
from benchmarks.vllm_peer import Vllm
from server.core.prompts.plan import SummaryPart, TextPart
from server.engine.protocol import Prompt

DOCUMENT_TOKENS = 4 * SEGMENT_LENGTH
QUESTION = "What did the old keeper of the lighthouse write on the first of March, and why did nobody read it? " * 2
NUM_DOCUMENTS, NUM_VISITS, ANSWER_TOKENS, AT_ONCE = 200, 24, 16, 8
NUM_PASSAGES, PASSAGE_TOKENS = 100, 512


def run(subject: Subject, vllm: Vllm | None, *, rounds: int) -> Iterator[Row]:
    if vllm is not None:
        yield from _first_token(subject, vllm, rounds)
        yield _random_visits(subject, vllm, rounds)
    yield _rerank(subject, rounds)


def _first_token(subject: Subject, vllm: Vllm, rounds: int) -> Iterator[Row]:
    document = random_ids(DOCUMENT_TOKENS, 1)
    (summary_id,) = subject.run(store(subject, [document]))
    vllm.prepare("E4", [[*document, *question_ids(subject)]])
    measured = take_turns(
        {
            "ours": lambda: 1 / subject.run(ask(subject, summary_id, 1)),
            "vLLM cold": lambda: 1 / vllm.run("E4", max_tokens=1, forget=True),
            "vLLM warm": lambda: 1 / vllm.run("E4", max_tokens=1, forget=False),
        },
        rounds,
    )
    for peer, target in (("vLLM cold", 15.0), ("vLLM warm", 0.9)):
        what = "time to the first token of an answer on a stored document of 6,144 tokens: speed"
        yield compared("E4", what, measured, peer=peer, target=target, side_unit="/s")


def _random_visits(subject: Subject, vllm: Vllm, rounds: int) -> Row:
    """The peer reads the documents it has no room for again; a GiB of keys and values holds some ten of them."""
    documents = [random_ids(DOCUMENT_TOKENS, 100 + seed) for seed in range(NUM_DOCUMENTS)]
    summary_ids = subject.run(store(subject, documents))
    vllm.prepare("E5", [[*document, *question_ids(subject)] for document in documents])
    visits = iter(random_ids(NUM_VISITS * (rounds + 1) * 2, 7))

    def drawn() -> list[int]:
        return [next(visits) % NUM_DOCUMENTS for _ in range(NUM_VISITS)]

    def ours() -> float:
        started = time.perf_counter()
        subject.run(_ask_all(subject, [summary_ids[index] for index in drawn()]))
        return NUM_VISITS / (time.perf_counter() - started)

    def theirs() -> float:
        return NUM_VISITS / vllm.run("E5", max_tokens=ANSWER_TOKENS, forget=False, only=drawn())

    measured = take_turns({"ours": ours, "vLLM full text": theirs}, max(2, rounds // 2))
    what = f"questions over {NUM_DOCUMENTS} stored documents at random, {ANSWER_TOKENS} new tokens"
    return compared("E5", what, measured, peer="vLLM full text", target=10.0, side_unit="questions/s")


def _rerank(subject: Subject, rounds: int) -> Row:
    passages = [random_ids(PASSAGE_TOKENS, 500 + seed) for seed in range(NUM_PASSAGES)]
    summary_ids = subject.run(store(subject, passages))
    query = tuple(question_ids(subject))

    def by_summary() -> float:
        async def score(summary_id: str) -> None:
            prompt = await subject.services.prompter.assemble(
                await subject.services.prompter.plan(subject.call, [SummaryPart(summary_id), TextPart(QUESTION[:8])])
            )
            await subject.services.decoder.score(prompt, [query])

        return _rate(subject, [score(summary_id) for summary_id in summary_ids])

    def by_text() -> float:
        async def score(passage: Sequence[int]) -> None:
            await subject.services.decoder.score(Prompt(None, tuple(passage)), [query])

        return _rate(subject, [score(passage) for passage in passages])

    measured = take_turns({"summaries": by_summary, "full text": by_text}, max(2, rounds // 2))
    return Row(
        "E11",
        f"rerank {NUM_PASSAGES} stored passages of {PASSAGE_TOKENS} tokens, over reading them in full: speed",
        ratios(measured["summaries"], measured["full text"]),
        "×",
        5.0,
        sides={name: Spread.of(values) for name, values in measured.items()},
        side_unit="passages/s",
    )


def _rate(subject: Subject, work: Sequence[object]) -> float:
    async def together() -> None:
        await asyncio.gather(*work)

    started = time.perf_counter()
    subject.run(together())
    return len(work) / (time.perf_counter() - started)


def question_ids(subject: Subject) -> list[int]:
    return subject.services.model.tokenise(QUESTION, is_start=False)


async def store(subject: Subject, documents: Sequence[Sequence[int]]) -> list[str]:
    """Compress documents and keep them; their summary ids."""
    return [await subject.store(document) for document in documents]


async def ask(subject: Subject, summary_id: str, max_tokens: int) -> float:
    """Seconds from a question with an id to the last token of its answer."""
    prompter = subject.services.prompter
    started = time.perf_counter()
    plan = await prompter.plan(subject.call, [SummaryPart(summary_id), TextPart(QUESTION)])
    await subject.drain(await prompter.assemble(plan), max_tokens)
    return time.perf_counter() - started


async def _ask_all(subject: Subject, summary_ids: Sequence[str]) -> None:
    turn = asyncio.Semaphore(AT_ONCE)

    async def one(summary_id: str) -> None:
        async with turn:
            await ask(subject, summary_id, ANSWER_TOKENS)

    await asyncio.gather(*map(one, summary_ids))
