"""Conversations that are compacted, against text summaries and over many turns; with the default model.

    python -m benchmarks.compacting summary squad.jsonl
    python -m benchmarks.compacting parts squad.jsonl
    python -m benchmarks.compacting turns squad.jsonl

`summary`: conversations of 20 turns, a user's paragraphs and short replies, are compacted, and are summarised as text
by the same model; then the loss of the gold answers to questions on the first five turns is taken after each, at equal
positions. `parts`: the same losses by how many vectors are read and how many segments come back as text. `turns`: one
conversation with automatic compaction, in whose first turns facts are planted; how long turns take, and whether the
segment that has a fact comes back as text when it is asked for, after a restart.
"""

import random
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import httpx
import numpy as np
import typer
from tqdm import tqdm

from benchmarks.live import LiveServer
from training.bench.questions import Paragraph, is_contained, read_paragraphs
from training.evaluation.intervals import ratio

TURNS, PARAGRAPHS, EARLY_TURNS, QUESTIONS_EACH = 20, 33, 5, 4  # so many are 6,000 tokens
SUMMARY_TOKENS = 300
SEGMENT_TOKENS = 128
ASKED_TO_SUMMARISE = "Write a detailed summary of our whole conversation, so that every question on it can be answered."
COMPACTED, EXPANDED, SUMMARISED = "compacted", "compacted, one segment as text", "text summary"
NOTHING = "nothing"

NUMS_VECTORS, NUMS_SEGMENTS = (16, 64, 256), (0, 1, 2, 4)

NUM_TURNS, FACT_TURNS, THRESHOLD, REPLY_TOKENS = 200, 20, 2000, 16
THINGS = (
    *("lighthouse", "cellar", "harbour", "orchard", "chapel", "bakery", "library", "stable", "garden", "mill"),
    *("tower", "bridge", "theatre", "museum", "market", "school", "hospital", "station", "factory", "castle"),
)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
Questions = Annotated[Path, typer.Argument(help='JSONL of {"context", "questions": [{"question", "answer"}]}.')]


class Caller:
    """Calls one server."""

    def __init__(self, port: int) -> None:
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=600)
        self.model = self.get("/v1/models")["data"][0]["id"]

    def get(self, path: str) -> Any:
        return self._client.get(path).raise_for_status().json()

    def post(self, path: str, **body: Any) -> tuple[Any, float]:
        """The answer, and the seconds that it took."""
        started = time.perf_counter()
        answer = self._client.post(path, json=body)
        seconds = time.perf_counter() - started
        if answer.is_error:
            raise typer.Exit(f"{path}: {answer.text}")
        return answer.json(), seconds


@app.command()
def summary(questions: Questions, count: Annotated[int, typer.Option(help="Conversations.", min=2)] = 12) -> None:
    """Compact conversations and summarise them as text, and compare what is still known of their first turns."""
    paragraphs = read_paragraphs(questions, least=PARAGRAPHS)
    draw = random.Random(0)
    losses: dict[str, list[tuple[float, int]]] = {}
    seconds: dict[str, list[float]] = {COMPACTED: [], SUMMARISED: []}
    tokens = []
    with tempfile.TemporaryDirectory() as folder, LiveServer(Path(folder)) as server:
        caller = Caller(server.port)
        _warm(caller, paragraphs)
        for _ in tqdm(range(count), unit="conversation"):
            own = draw.sample(paragraphs, PARAGRAPHS)
            contexts, taken, read = _contexts(caller, own)
            tokens.append(read)
            for name, value in taken.items():
                seconds[name].append(value)
            for name, own_losses in _losses(caller, own, contexts).items():
                losses.setdefault(name, []).append(own_losses)
    typer.echo(f"{count} conversations of {TURNS} turns, {np.median(tokens):.0f} tokens")
    factors = np.array(seconds[SUMMARISED]) / np.array(seconds[COMPACTED])
    typer.echo(
        f"compacting {np.median(seconds[COMPACTED]):.2f} s, a summary of {SUMMARY_TOKENS} tokens "
        f"{np.median(seconds[SUMMARISED]):.2f} s: {np.median(factors):.1f} times "
        f"({factors.min():.1f} to {factors.max():.1f})"
    )
    _tell(losses)
    for name in (COMPACTED, EXPANDED):
        sums = np.array([one[0] - other[0] for one, other in zip(losses[name], losses[SUMMARISED], strict=True)])
        estimate = ratio(sums, np.array([pair[1] for pair in losses[name]]))
        typer.echo(f"{name} less {SUMMARISED}: {estimate.value:+.3f} ({estimate.low:+.3f} to {estimate.high:+.3f})")


@app.command()
def parts(questions: Questions, count: Annotated[int, typer.Option(help="Conversations.", min=2)] = 12) -> None:
    """Compact conversations, and compare what their questions are read with: numbers of vectors and of segments."""
    paragraphs = read_paragraphs(questions, least=PARAGRAPHS)
    draw = random.Random(0)
    losses: dict[str, list[tuple[float, int]]] = {}
    with tempfile.TemporaryDirectory() as folder, LiveServer(Path(folder)) as server:
        caller = Caller(server.port)
        for _ in tqdm(range(count), unit="conversation"):
            own = draw.sample(paragraphs, PARAGRAPHS)
            compacted, _ = caller.post("/v1/responses/compact", model=caller.model, input=_conversation(own))
            sealed = [{"encrypted_content": compacted["output"][-1]["encrypted_content"]}]
            contexts: dict[str, Any] = {NOTHING: ("", {"context": []})}
            for num_vectors in NUMS_VECTORS:
                for num_segments in NUMS_SEGMENTS:
                    expanded = {"expand": {"segments": num_segments}} if num_segments else {}
                    name = f"{num_vectors} vectors, {num_segments} segments as text"
                    contexts[name] = ("", {"context": sealed, "max_vectors": num_vectors} | expanded)
            for name, own_losses in _losses(caller, own, contexts).items():
                losses.setdefault(name, []).append(own_losses)
    _tell(losses)


def _tell(losses: dict[str, list[tuple[float, int]]]) -> None:
    for name, pairs in losses.items():
        sums, counts = np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs])
        estimate = ratio(sums, counts)
        typer.echo(f"loss of answers after {name}: {estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})")


def _warm(caller: Caller, paragraphs: Sequence[Paragraph]) -> None:
    """The first calls of a process take longer."""
    items = _conversation(paragraphs[-4:])
    caller.post("/v1/responses/compact", model=caller.model, input=items)
    _summarised(caller, items, 8)


def _conversation(paragraphs: Sequence[Paragraph]) -> list[dict[str, str]]:
    items = []
    for said in _turns(paragraphs):
        text = "\n".join(paragraph.text for paragraph in said)
        items += [{"role": "user", "content": text}, {"role": "assistant", "content": "I have read it. Go on."}]
    return items


def _turns(paragraphs: Sequence[Paragraph]) -> list[Sequence[Paragraph]]:
    """What the user says in each turn, some paragraphs; fewer turns where there are fewer paragraphs."""
    ends = [-(-len(paragraphs) * turn // TURNS) for turn in range(TURNS + 1)]
    return [paragraphs[start:end] for start, end in pairwise(ends) if start < end]


def _summarised(caller: Caller, items: list[dict[str, str]], num_tokens: int) -> tuple[Any, float]:
    return caller.post(
        "/v1/chat/completions",
        model=caller.model,
        messages=[*items, {"role": "user", "content": ASKED_TO_SUMMARISE}],
        max_tokens=num_tokens,
        temperature=0,
        ignore_eos=True,
        truncate="error",
    )


def _contexts(caller: Caller, paragraphs: Sequence[Paragraph]) -> tuple[dict[str, Any], dict[str, float], int]:
    """For each way, what stands before a question, in the terms of /score; the seconds; and the tokens compacted."""
    items = _conversation(paragraphs)
    compacted, compact_seconds = caller.post("/v1/responses/compact", model=caller.model, input=items)
    told, summary_seconds = _summarised(caller, items, SUMMARY_TOKENS)
    sealed = [{"encrypted_content": compacted["output"][-1]["encrypted_content"]}]
    text = told["choices"][0]["message"]["content"]
    contexts = {
        COMPACTED: ("", {"context": sealed, "max_vectors": SUMMARY_TOKENS}),
        EXPANDED: ("", {"context": sealed, "max_vectors": SUMMARY_TOKENS - SEGMENT_TOKENS, "expand": {"segments": 1}}),
        SUMMARISED: (f"<|im_start|>system\nWhat was said before: {text}<|im_end|>\n", {"context": []}),
        NOTHING: ("", {"context": []}),
    }
    seconds = {COMPACTED: compact_seconds, SUMMARISED: summary_seconds}
    return contexts, seconds, compacted["usage"]["input_tokens"]


def _losses(caller: Caller, paragraphs: Sequence[Paragraph], contexts: dict[str, Any]) -> dict[str, tuple[float, int]]:
    """Of each way the negative log-likelihood of the answers to questions on the first turns, and their tokens."""
    early = [paragraph for said in _turns(paragraphs)[:EARLY_TURNS] for paragraph in said]
    asked = [question for paragraph in early for question in paragraph.questions[:1]][:QUESTIONS_EACH]
    losses = {}
    for name, (before, read) in contexts.items():
        total, num_tokens = 0.0, 0
        for question in asked:
            said = f"{before}<|im_start|>user\n{question.text}<|im_end|>\n<|im_start|>assistant\n"
            body = read | {"context": [*read["context"], {"text": said}], "continuations": [question.answer]}
            scored, _ = caller.post("/score", **body)
            total -= scored["scores"][0]["logprob"]
            num_tokens += len(scored["scores"][0]["tokens"])
        losses[name] = (total, num_tokens)
    return losses


@app.command()
def turns(
    questions: Questions,
    count: Annotated[int, typer.Option(help="Turns.", min=4 * FACT_TURNS)] = NUM_TURNS,
    threshold: Annotated[int, typer.Option(help="Positions from which on the conversation is compacted.")] = THRESHOLD,
) -> None:
    """Talk for many turns with automatic compaction, restart the server, and ask for what was said first."""
    draw = random.Random(0)
    facts = {thing: f"{draw.randrange(1000, 10000)}" for thing in THINGS[:FACT_TURNS]}
    paragraphs = read_paragraphs(questions)
    last: str | None = None
    seconds, num_compacted = [], 0
    with tempfile.TemporaryDirectory() as folder:
        with LiveServer(Path(folder), store="one") as server:
            caller = Caller(server.port)
            planted = [f"Remember this: the number of the {thing} is {number}." for thing, number in facts.items()]
            for turn in tqdm(range(count), unit="turn"):
                said = planted[turn] if turn < len(planted) else _excerpt(paragraphs[turn % len(paragraphs)].text)
                answer, taken = _turn(caller, said, last, threshold)
                seconds.append(taken)
                last = answer["id"]
                num_compacted += answer["compression"]["compaction"] is not None
        with LiveServer(Path(folder), store="one") as server:
            caller = Caller(server.port)
            found = [_asked(caller, thing, number, last, threshold) for thing, number in facts.items()]
    quarter = count // 4
    medians = [float(np.median(seconds[start : start + quarter])) for start in range(0, count - quarter + 1, quarter)]
    typer.echo(
        f"{count} turns, compacted {num_compacted} times; median seconds a turn by quarter: "
        + ", ".join(f"{median:.2f}" for median in medians)
    )
    typer.echo(f"the last quarter over the second: {medians[-1] / medians[1]:.2f}")
    typer.echo(
        f"of {len(found)} facts {sum(came for came, _ in found)} came back as text after a restart, "
        f"{sum(right for _, right in found)} were answered"
    )


def _excerpt(text: str, most: int = 240) -> str:
    return text[:most].rsplit(" ", 1)[0]


def _turn(caller: Caller, said: str, last: str | None, threshold: int, **more: Any) -> tuple[Any, float]:
    before = {} if last is None else {"previous_response_id": last}
    return caller.post(
        "/v1/responses",
        model=caller.model,
        input=said,
        temperature=0,
        max_output_tokens=REPLY_TOKENS,
        context_management=[{"type": "compaction", "compact_threshold": threshold}],
        **before,
        **more,
    )


def _asked(caller: Caller, thing: str, number: str, last: str | None, threshold: int) -> tuple[bool, bool]:
    """Whether the fact came back as text, and whether the answer has it."""
    answer, _ = _turn(caller, f"What is the number of the {thing}?", last, threshold)
    texts = [_text(caller, each["summary_id"], each["segment"]) for each in answer["compression"]["expanded"]]
    reply = "".join(part["text"] for part in answer["output"][-1]["content"])
    came = any(f"the number of the {thing} is {number}" in text for text in texts)
    return came, is_contained(number, reply)


def _text(caller: Caller, summary_id: str, segment: int) -> str:
    after = "" if segment == 0 else f"&after={segment - 1}"
    (found,) = caller.get(f"/summaries/{summary_id}/segments?limit=1{after}")["data"]
    return "".join(found["pieces"])


if __name__ == "__main__":
    app()
