"""An endless conversation by the `openai` package: a fact, pages of a text past several compactions, a question."""

import argparse
import time
from pathlib import Path
from typing import Any

from openai import OpenAI

FACT = "The beekeeper of our village is called Ottoline Marsh. I will read a book to you now. Just answer: Yes."
QUESTION = "What is the name of the beekeeper?"
PAGE = 3_000  # characters


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", type=Path, help="what is read out; over and over, where it is short")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="where the server answers")
    parser.add_argument("--api-key", default="none", help="where the server wants one")
    parser.add_argument("--threshold", type=int, default=1_500, help="positions from which on it is compacted")
    parser.add_argument("--pages", type=int, default=6, help="turns between the fact and the question")
    options = parser.parse_args()
    client = OpenAI(base_url=f"{options.url}/v1", api_key=options.api_key, timeout=600)
    model = client.models.list().data[0].id
    text = options.text.read_text(encoding="utf-8")
    starts = range(0, len(text), PAGE)
    pages = [text[start : start + PAGE] for start in starts]
    read_out = [f"{pages[turn % len(pages)]}\n\nWhat happens on this page?" for turn in range(options.pages)]
    last: str | None = None
    for said in (FACT, *read_out, QUESTION):
        last = answer(client, model, said, last, options.threshold)


def answer(client: OpenAI, model: str, said: str, last: str | None, threshold: int) -> str:
    """Have the model answer after the response `last`; the new response's id."""
    started = time.monotonic()
    rules: list[Any] = [{"type": "compaction", "compact_threshold": threshold}]
    response = client.responses.create(
        model=model,
        input=said,
        previous_response_id=last,
        context_management=rules,
        max_output_tokens=32,
        temperature=0,
    )
    read = (response.model_extra or {})["compression"]
    made = read["compaction"]
    compacted = "" if made is None else f"; {made['tokens']:,} tokens compacted, {made['vectors']:,} vectors in all"
    print(
        f"{read['summary_vectors']:5,} vectors, {read['raw_tokens']:5,} tokens, {len(read['expanded'])} segments read"
        f"{compacted}; {time.monotonic() - started:.1f} s: {response.output_text!r}",
        flush=True,
    )
    return response.id


if __name__ == "__main__":
    main()
