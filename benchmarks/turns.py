"""What is kept of prompts: a chat of many turns with and without it, and what it costs a long prompt that is new.

python -m benchmarks.turns
"""

import argparse
import random
import tempfile
import time
from pathlib import Path

import httpx
import numpy as np

from benchmarks.live import LiveServer

SAID = (
    "The keeper of the lighthouse wrote one line a day: the wind, the ships, the fog, and what the post had brought "
    "from the village by sledge. "
)
REPLY_TOKENS = 16
LAST = 4  # turns, whose mean is told
LONG, MORE = (500, 2000), 20  # tokens of new prompts, and how many the same ones have more when they come again
ROUNDS = 3


def talk(port: int, turns: int) -> tuple[list[float], list[str], list[tuple[int, int]]]:
    """Of each turn its seconds, its answer, and the prompt's tokens with those that were known."""
    seconds, answers, tokens = [], [], []
    messages: list[dict[str, str]] = []
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=600) as client:
        model = client.get("/v1/models").json()["data"][0]["id"]
        for turn in range(turns):
            messages.append({"role": "user", "content": f"Day {turn}. {SAID * 3}What then?"})
            body = {"model": model, "messages": messages, "max_tokens": REPLY_TOKENS, "temperature": 0}
            started = time.perf_counter()
            answer = client.post("/v1/chat/completions", json=body).raise_for_status().json()
            seconds.append(time.perf_counter() - started)
            answers.append(answer["choices"][0]["message"]["content"])
            usage = answer["usage"]
            tokens.append((usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]))
            messages.append({"role": "assistant", "content": answers[-1]})
    return seconds, answers, tokens


def read(port: int, token_ids: list[int]) -> float:
    """The seconds until the token after a prompt."""
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=600) as client:
        model = client.get("/v1/models").json()["data"][0]["id"]
        body = {"model": model, "prompt": token_ids, "max_tokens": 1, "temperature": 0}
        started = time.perf_counter()
        client.post("/v1/completions", json=body).raise_for_status()
        return time.perf_counter() - started


def tell_long_prompts(without: int, kept: int) -> None:
    """Of servers at these ports; the medians of some rounds, in turns."""
    draw = random.Random(0)
    for length in LONG:
        rounds = []
        for _ in range(ROUNDS):
            token_ids = [draw.randrange(1000, 40_000) for _ in range(length)]
            more = token_ids + [draw.randrange(1000, 40_000) for _ in range(MORE)]
            rounds.append([read(without, token_ids), read(kept, token_ids), read(kept, more)])
        whole, blocks, again = np.median(rounds, axis=0)
        ratio = np.median([each[1] / each[0] for each in rounds])
        print(
            f"a new prompt of {length} tokens: {whole:.2f} s in one piece, {blocks:.2f} s in blocks "
            f"({ratio:.2f} times); with {MORE} more, {again:.2f} s"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=16, help="how many")
    turns = parser.parse_args().turns
    with (
        tempfile.TemporaryDirectory() as folder,
        LiveServer(Path(folder), "--prefix-cache-bytes", "0") as without,
        LiveServer(Path(folder)) as kept,
    ):
        for server in (without, kept):
            talk(server.port, 2)  # the first calls of a process take longer
        tell_long_prompts(without.port, kept.port)
        told = {name: talk(server.port, turns) for name, server in (("without", without), ("kept", kept))}
    for name, (seconds, _, tokens) in told.items():
        num_read, known = tokens[-1]
        print(f"{name}: the last {LAST} turns {np.mean(seconds[-LAST:]):.2f} s, of {num_read} tokens {known} known")
        print("  " + ", ".join(f"{each:.2f}" for each in seconds))
    print("the answers are", "the same" if told["without"][1] == told["kept"][1] else "NOT the same")


if __name__ == "__main__":
    main()
