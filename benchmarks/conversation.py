"""E13: a chat that outgrows its window many times over, turn by turn."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.live import Connection, LiveServer
from benchmarks.machine import ROOT
from benchmarks.measuring import Row, Spread

WINDOW, TURNS, NEW_TOKENS = 2048, 50, 48
QUESTION_CHARACTERS = 700  # some two hundred tokens
EARLY, LATE = slice(10, 30), slice(30, 50)


def run(model: Path, folder: Path, *, rounds: int) -> Iterator[Row]:
    with LiveServer(folder, "--model", str(model), "--max-sequence-tokens", str(WINDOW)) as server:
        turns = [asyncio.run(_turns(server.port, model.name, number)) for number in range(rounds)]
    early, late = ([sum(times[part]) / len(times[part]) for times in turns] for part in (EARLY, LATE))
    yield Row(
        "E13",
        f"a chat of {TURNS} turns in a window of {WINDOW:,}: time of turns 31 to 50 over that of 11 to 30",
        Spread.of([one / other for one, other in zip(late, early, strict=True)]),
        "×",
        1.15,
        is_limit=True,
        sides={"late": Spread.of(late), "early": Spread.of(early)},
        side_unit="s",
    )


async def _turns(port: int, model: str, number: int) -> list[float]:
    """Seconds of each turn; each conversation asks other questions, so that none finds another's segments stored."""
    text = f"Conversation {number}. {(ROOT / 'examples' / 'chapter.txt').read_text()}" * 3
    connection = await Connection.to(port)
    messages: list[dict[str, str]] = []
    times = []
    for turn in range(TURNS):
        question = text[turn * QUESTION_CHARACTERS : (turn + 1) * QUESTION_CHARACTERS]
        messages.append({"role": "user", "content": question})
        started = time.perf_counter()
        answer = await connection.post_json(
            "/v1/chat/completions",
            model=model,
            messages=messages,
            max_tokens=NEW_TOKENS,
            temperature=0,
            ignore_eos=True,
        )
        times.append(time.perf_counter() - started)
        messages.append({"role": "assistant", "content": answer["choices"][0]["message"]["content"]})
    connection.close()
    return times
