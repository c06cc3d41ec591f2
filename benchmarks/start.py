"""E12: the start of a server with the default model."""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.live import LiveServer
from benchmarks.measuring import Row, Spread

STARTS = 3  # at least


def run(model: Path, folder: Path, *, rounds: int) -> Iterator[Row]:
    pages, readies, cpu = [], [], []
    for _ in range(max(STARTS, rounds)):
        with LiveServer(folder, "--model", str(model)) as server:
            pages.append(server.seconds_to_page)
            readies.append(server.seconds_to_ready)
            cpu.append(server.cpu_seconds_to_ready)
    yield Row("E12", "start to `/livez` and the page, default model", Spread.of(pages), "s", 2.0, is_limit=True)
    yield Row(
        "E12",
        "start to ready, default model",
        Spread.of(readies),
        "s",
        5.0,
        is_limit=True,
        sides={"of all cores": Spread.of(cpu)},
        side_unit="s",
    )
