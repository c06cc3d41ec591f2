"""A conversation longer than the window, by the `openai` package: pages of a text are read out in turns, and at the end
comes a question about the first turn."""

import argparse
import time
from pathlib import Path
from typing import Any

from openai import OpenAI

FIRST = "The beekeeper of our village is called Ottoline Marsh. I will read a book to you now. Just answer: Yes."
QUESTION = "What is the name of the beekeeper?"
PAGE = 16_000  # characters


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", type=Path, help="what is read out; over and over, where it is short")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="where the server answers")
    parser.add_argument("--api-key", default="none", help="where the server wants one")
    parser.add_argument("--tokens", type=int, default=100_000, help="of the conversation, before the question")
    parser.add_argument("--expand", type=int, default=1, help="segments that are read as text for the question")
    parser.add_argument("--max-vectors", type=int, default=16, help="vectors that stand beside them")
    options = parser.parse_args()
    client = OpenAI(base_url=f"{options.url}/v1", api_key=options.api_key, timeout=600)
    model = client.models.list().data[0].id
    text = options.text.read_text(encoding="utf-8")
    messages: list[Any] = [{"role": "user", "content": FIRST}]
    answer(client, model, messages)
    start = num_tokens = 0
    while num_tokens < options.tokens:
        page = text[start : start + PAGE]
        start = 0 if start + PAGE >= len(text) else start + PAGE
        messages.append({"role": "user", "content": f"The next page:\n\n{page}\n\nWhat happens on it?"})
        num_tokens = answer(client, model, messages)
    for read in ({}, {"expand": {"segments": options.expand}, "max_vectors": options.max_vectors}):
        asked = [*messages, {"role": "user", "content": QUESTION}]
        answer(client, model, asked, **read)


def answer(client: OpenAI, model: str, messages: list[Any], **read: Any) -> int:
    """Have the model answer, and append what it says; the conversation's length so far.

    Args:
        read: how its history is read, beside OpenAI's own parameters.
    """
    started = time.monotonic()
    reply = client.chat.completions.create(
        model=model, messages=messages, max_tokens=32, temperature=0, extra_body=read
    )
    said = reply.choices[0].message.content or ""
    messages.append({"role": "assistant", "content": said})
    assert reply.usage is not None
    read = (reply.model_extra or {})["compression"]
    print(
        f"{reply.usage.prompt_tokens:7,} tokens as {read['summary_vectors']:,} vectors, {read['thinned_vectors']:,} "
        f"left out, and {read['raw_tokens']:,} tokens; {len(read['expanded'])} segments as text; "
        f"{time.monotonic() - started:.1f} s: {said!r}",
        flush=True,
    )
    return reply.usage.prompt_tokens


if __name__ == "__main__":
    main()
