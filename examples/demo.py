"""The three calls against a running server: compress a chapter, generate from its id, score continuations by it."""

import argparse
import sys
from pathlib import Path
from typing import Any

import httpx

CHAPTER = Path(__file__).parent / "chapter.txt"
# How the next chapter goes on. The first continuation is its own; the others fit as well for who has not read this one.
PROMPT = "But to return to my story. I kept up my role until the assistant matron,"
CONTINUATIONS = (" Mrs. Stanard, came in.", " Mr. Robinson, came in.", " the Captain, went ashore.")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="where the server answers")
    url = parser.parse_args().url
    with httpx.Client(base_url=url, timeout=120) as client:
        try:
            client.get("/readyz").raise_for_status()
            summary_id = compress(client, CHAPTER.read_text(encoding="utf-8"))
            generate(client, summary_id)
            score(client, summary_id)
        except httpx.TransportError as error:
            print(f"no server answers at {url} ({error}): start one with `make serve`, or pass --url", file=sys.stderr)
            return 1
        except httpx.HTTPStatusError as error:
            print(f"the server answered {error.response.status_code}: {error.response.text}", file=sys.stderr)
            return 1
    return 0


def compress(client: httpx.Client, text: str) -> str:
    """Compress the text twice: the second call finds every segment in the store."""
    title("POST /compress, twice", f"the chapter of examples/chapter.txt, {len(text):,} characters")
    for _ in range(2):
        made = call(client, "/compress", text=text)
        print(
            f"  {made['tokens']:,} tokens in {made['segments']} segments -> {made['vectors']} vectors"
            f" ({made['compression_ratio']:.1f} tokens a vector),"
            f" {made['timings']['total_seconds'] * 1000:,.0f} ms, {made['cached_segments']} segments from the store"
        )
    print(f"  id {made['id']}")
    return str(made["id"])


def generate(client: httpx.Client, summary_id: str) -> None:
    title("POST /generate", f"from the id and the prompt {PROMPT!r}")
    made = call(
        client, "/generate", summary_ids=[summary_id], prompt=PROMPT, max_tokens=64, temperature=0.7, top_p=0.9, seed=1
    )
    usage, timings = made["usage"], made["timings"]
    print(f"  ...{made['text']}".replace("\n", "\n  "))
    print(
        f"  {usage['completion_tokens']} tokens after {usage['prompt_tokens']} of the prompt and"
        f" {usage['summary_vectors']} vectors in place of {usage['summarised_tokens']:,} tokens;"
        f" first after {timings['time_to_first_token_seconds'] * 1000:,.0f} ms,"
        f" all after {timings['total_seconds'] * 1000:,.0f} ms"
    )


def score(client: httpx.Client, summary_id: str) -> None:
    """Log-probabilities of the continuations for a model that has the chapter, and for one that has not."""
    title("POST /score", "log-probability of what could follow the prompt; higher is likelier")
    without, given = (
        call(client, "/score", summary_ids=ids, prompt=PROMPT, continuations=CONTINUATIONS)["scores"]
        for ids in ([], [summary_id])
    )
    width = max(map(len, CONTINUATIONS)) + 2
    print(f"  {'':{width}} {'without':>9} {'with id':>9} {'gain':>9}")
    for text, before, after in zip(CONTINUATIONS, without, given, strict=True):
        gain = after["logprob"] - before["logprob"]
        print(f"  {text!r:{width}} {before['logprob']:9.2f} {after['logprob']:9.2f} {gain:+9.2f}")


def call(client: httpx.Client, path: str, **body: Any) -> dict[str, Any]:
    answer: dict[str, Any] = client.post(path, json=body).raise_for_status().json()
    return answer


def title(name: str, text: str) -> None:
    print(f"\n{name}: {text}")


if __name__ == "__main__":
    sys.exit(main())
