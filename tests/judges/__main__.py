"""`make judges`: what others wrote to tell whether a server keeps to an interface, run against this one.

Each judge is installed into an environment of its own under artifacts/judges, and asks a server of its own.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from transformers.utils import logging as transformers_logging

from benchmarks.live import LiveServer
from tests.judges import speaker
from tests.judges.catalogue import JUDGES
from tests.judges.judge import ALIAS, Outcome, Target, as_table
from tests.judges.places import Unavailable

PLACE = Path(__file__).parents[2] / "artifacts" / "judges"


def main() -> int:
    """1 where a check failed that is no documented skip."""
    parser = argparse.ArgumentParser(prog="make judges", description=__doc__)
    parser.add_argument("judges", nargs="*", help=f"which; all by default: {', '.join(JUDGES)}")
    parser.add_argument("--model", help="what is served; by default a tiny model whose turns end, and say nothing")
    options = parser.parse_args()
    if unknown := sorted(set(options.judges) - JUDGES.keys()):
        parser.error(f"there is no judge {unknown[0]!r}; there are: {', '.join(JUDGES)}")
    transformers_logging.disable_progress_bar()
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or speaker.save(Path(folder) / "speaker")
        for name in options.judges or JUDGES:
            print(f"{name} …", file=sys.stderr, flush=True)
            outcome = judged(name, str(model), Path(folder))
            outcomes.append(outcome)
            for failure in outcome.failures:
                print(f"  {failure}", file=sys.stderr)
    print(as_table(outcomes))
    return int(any(outcome.failures for outcome in outcomes))


def judged(name: str, model: str, folder: Path) -> Outcome:
    judge = JUDGES[name]
    try:
        environment = judge.installed(PLACE / name)
    except Unavailable as reason:
        return Outcome(name, skipped=[str(reason)])
    try:
        with LiveServer(folder, "--model", model, "--aliases", ALIAS) as server:
            return judge.ask(name, environment, Target(f"http://127.0.0.1:{server.port}/v1", ALIAS))
    except RuntimeError as error:  # the others are asked all the same
        return Outcome(name, failures=[str(error)])


if __name__ == "__main__":
    sys.exit(main())
