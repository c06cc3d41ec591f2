"""`make chaos`: faults done to a live server under load, a row each; exit status 1 where a requirement is not met.

Servers, Redis and clients are processes of their own, on a tiny model with random weights. Before all rows a server
that nobody disturbs makes each document; in every row answers and vectors are compared with what it said. Required in
every row: no acknowledged summary is lost, nothing wrong is served, every call is answered (unless the server itself
was killed), no traceback in its log.
"""

import argparse
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from transformers.utils import logging as transformers_logging

from tests.chaos.catalogue import ROWS, Row
from tests.chaos.house import POSITIONS, House, reference
from tests.chaos.outcome import Outcome, Skipped, as_table, write_json
from tests.tiny import tiny_compressor

NUM_DOCUMENTS = 300
Say = Callable[[str], None]


def main(arguments: list[str] | None = None) -> int:
    """1 where something that is required is not so."""
    options = parsed(arguments)
    transformers_logging.disable_progress_bar()
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - started:6.0f} s] {text}", file=sys.stderr, flush=True)

    outcomes = []
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        checkpoint = Path(folder) / "tiny"
        tiny_compressor(max_positions=POSITIONS).save_pretrained(checkpoint)
        with reference(Path(folder) / "reference", checkpoint, options.documents, say) as house:
            for name in options.rows or ROWS:
                outcomes.append(run(name, ROWS[name], replace(house, folder=Path(folder)), options, say))
                if options.json is not None:
                    write_json(outcomes, options.json)
    print(as_table(outcomes))
    return int(any(outcome.faults for outcome in outcomes))


def run(name: str, row: Row, house: House, options: argparse.Namespace, say: Say) -> Outcome:
    """One row; what it raises is a fault of it, and the others are run all the same."""
    outcome = Outcome(name, row.did)
    rounds = row.rounds if options.rounds is None else options.rounds
    seconds = row.seconds if options.seconds is None else options.seconds
    say(f"{name}: {row.did}")
    own = replace(house.room(name), rounds=rounds, seconds=seconds, seed=options.seed)
    try:
        row.run(replace(own, say=lambda text: say(f"{name}: {text}")), outcome)
    except Skipped as reason:
        outcome.skipped = str(reason)
    except Exception as error:
        traceback.print_exc()
        outcome.faults.append(f"the row broke down: {error!r}")
    outcome.seconds = time.monotonic() - outcome.started
    for fault in outcome.faults[:20]:
        say(f"{name}: FAULT: {fault}")
    say(f"{name}: {outcome.verdict}, {outcome.counts}")
    return outcome


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    listed = "\n".join(f"  {name:16} {row.did}{amount(row)}" for name, row in ROWS.items())
    parser = argparse.ArgumentParser(
        prog="make chaos",
        description=__doc__,
        epilog=f"rows, and how much of each by itself:\n{listed}\n\n"
        "make chaos ONLY='kill-9-file redis-full' ARGS='--rounds 3'\n"
        "make chaos ONLY=hour ARGS='--seconds 900 --json hour.json'",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help="which; all by default")
    parser.add_argument("--rounds", type=int, help="of each row that has rounds, in place of its own number")
    parser.add_argument("--seconds", type=float, help="of each row that lasts, in place of its own time")
    parser.add_argument("--documents", type=int, default=NUM_DOCUMENTS, help=f"{NUM_DOCUMENTS} by default, at least 20")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn; 0 by default")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the figures, after each row")
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.rows) - ROWS.keys()):
        parser.error(f"there is no row {unknown[0]!r}; there are: {', '.join(ROWS)}")
    for name, least in (("rounds", 1), ("seconds", 0.1), ("documents", 20)):
        value = getattr(options, name)
        if value is not None and value < least:
            parser.error(f"--{name} is {value:g}; at least {least:g} is needed")
    return options


def amount(row: Row) -> str:
    """How much of a row is run by itself, as `--help` tells it."""
    told = [f"{row.rounds:,} rounds" if row.rounds else "", f"{row.seconds:g} s" if row.seconds else ""]
    return f" ({', '.join(filter(None, told))})"


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended on the way out
    sys.exit(main())
