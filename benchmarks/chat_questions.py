"""Questions by chat to stored documents of 30 paragraphs, against a running server.

    python -m benchmarks.chat_questions squad.jsonl

Each is asked from the document's vectors, with segments of it read as text, with the one right paragraph in the
message and no summary (an adapted model is its untouched base there), and from nothing; all of these at once, greedily.
Right is an answer that contains the words of the gold one, as the suite `qa` judges.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import httpx
import numpy as np
import typer
from tqdm import tqdm

from training.bench.questions import is_contained, read_paragraphs
from training.bench.suites.qa_chat import DOCUMENT, drawn
from training.evaluation.intervals import ratio

VECTORS, PARAGRAPH, NOTHING = "document as vectors", "the right paragraph in the message", "nothing"


class Server:
    def __init__(self, url: str, max_tokens: int) -> None:
        self._client = httpx.Client(base_url=url, timeout=600)
        self._max_tokens = max_tokens
        self._model = self._client.get("/v1/models").raise_for_status().json()["data"][0]["id"]

    def post(self, path: str, body: dict[str, Any]) -> Any:
        response = self._client.post(path, json=body)
        response.raise_for_status()
        return response.json()

    def stored(self, text: str) -> str:
        return str(self.post("/compress", {"text": text, "keep_text": True})["id"])

    def answer(self, content: str | list[dict[str, str]], expand: int = 0, max_vectors: int | None = None) -> str:
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": "user", "content": content}],
            "temperature": 0,
            "max_tokens": self._max_tokens,
        }
        if expand:
            body["expand"] = {"segments": expand}
        if max_vectors is not None:
            body["max_vectors"] = max_vectors
        return str(self.post("/v1/chat/completions", body)["choices"][0]["message"]["content"])


def main(
    questions: Annotated[Path, typer.Argument(help='JSONL of {"context", "questions": [{"question", "answer"}]}.')],
    url: Annotated[str, typer.Option(help="Where the server answers.")] = "http://127.0.0.1:8000",
    count: Annotated[int, typer.Option(help="Questions asked.", min=1)] = 100,
    expand: Annotated[int, typer.Option(help="Segments read as text.", min=1)] = 2,
    max_vectors: Annotated[
        int | None, typer.Option(help="Of a document whose segments are read as text; all if none.", min=1)
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="Of an answer.", min=1)] = 32,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
    out: Annotated[Path | None, typer.Option("--json", help="Where to write every answer.")] = None,
) -> None:
    """Ask, and print how many of each way of asking are answered rightly."""
    paragraphs = read_paragraphs(questions, least=DOCUMENT)
    server = Server(url, max_tokens)
    expanded = f"{VECTORS if max_vectors is None else f'{max_vectors} of its vectors'}, {expand} segments as text"
    found: dict[str, list[bool]] = {}
    answers: list[dict[str, Any]] = []
    ids: dict[int, str] = {}
    for asked_of in tqdm(drawn(paragraphs, count, seed), unit=" questions"):
        question, number, start = asked_of.question, asked_of.paragraph, asked_of.document * DOCUMENT
        if start not in ids:
            ids[start] = server.stored("\n\n".join(each.text for each in paragraphs[start : start + DOCUMENT]))
        asked = [{"type": "summary", "id": ids[start]}, {"type": "text", "text": question.text}]
        ways = {
            expanded: (asked, expand, max_vectors),
            VECTORS: (asked,),
            PARAGRAPH: (f"{paragraphs[number].text}\n\n{question.text}",),
            NOTHING: (question.text,),
        }
        with ThreadPoolExecutor(len(ways)) as pool:
            said = dict(zip(ways, pool.map(lambda way: server.answer(*way), ways.values()), strict=True))
        for way, answer in said.items():
            found.setdefault(way, []).append(is_contained(answer, question.answer))
        answers.append({"paragraph": number, "question": question.text, "answer": question.answer, "said": said})
        if out is not None:
            out.write_text(json.dumps(answers, indent=1))
    typer.echo("| read | right | share |\n|---|---:|---:|")
    for way, right in found.items():
        share = ratio(np.array(right, np.float64), np.ones(len(right), np.int64))
        typer.echo(
            f"| {way} | {sum(right)} of {len(right)} | {share.value:.0%} ({share.low:.0%} to {share.high:.0%}) |"
        )


if __name__ == "__main__":
    typer.run(main)
