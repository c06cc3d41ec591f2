"""A conversation without an end, by the `openai` package: a fact is told, a text is read out in turns, the server
compacts what was said as it grows, and at the end comes a question about the fact."""

import argparse
import time
from pathlib import Path
from typing import Any

from openai import OpenAI

FIRST = "The beekeeper of our village is called Ottoline Marsh. I will read a book to you now. Just answer: Yes."
QUESTION = "What is the name of the beekeeper?"
PAGE = 3_000  # characters


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", type=Path, help="what is read out; over and over, where it is short")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="where the server answers")
    parser.add_argument("--api-key", default="none", help="where the server wants one")
    parser.add_argument("--turns", type=int, default=12, help="pages that are read out before the question")
    parser.add_argument("--threshold", type=int, default=2_000, help="positions from which on it is compacted")
    options = parser.parse_args()
    client = OpenAI(base_url=f"{options.url}/v1", api_key=options.api_key, timeout=600)
    model = client.models.list().data[0].id
    text = options.text.read_text(encoding="utf-8")
    rule: Any = [{"type": "compaction", "compact_threshold": options.threshold}]
    pages = [text[start : start + PAGE] for start in range(0, len(text), PAGE)]
    said = [FIRST]
    said += [f"The next page:\n\n{pages[turn % len(pages)]}\n\nWhat happens on it?" for turn in range(options.turns)]
    last: str | None = None
    for words in said:
        last = answer(client, model=model, input=words, previous_response_id=last, context_management=rule)
    for read in ({}, {"expand": {"segments": 1}, "max_vectors": 16}):
        answer(client, model=model, input=QUESTION, previous_response_id=last, extra_body=read)


def answer(client: OpenAI, **asked: Any) -> str:
    """Have the model answer, print what was read for it, and return the response's id."""
    started = time.monotonic()
    response = client.responses.create(max_output_tokens=32, temperature=0, **asked)
    assert response.usage is not None
    read = (response.model_extra or {})["compression"]
    compaction = read["compaction"]
    print(
        f"{response.usage.input_tokens:5,} positions, of them {read['summary_vectors']:,} vectors; "
        f"{'not compacted' if compaction is None else str(compaction['tokens']) + ' tokens compacted'}; "
        f"{len(read['expanded'])} segments as text; {time.monotonic() - started:.1f} s: {response.output_text!r}",
        flush=True,
    )
    return response.id


if __name__ == "__main__":
    main()
