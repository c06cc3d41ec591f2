"""What the programs here have in common; it needs nothing but Python, as it runs in the judges' environments."""

import json
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

MOST_CHARACTERS = 400  # of an error


class Asked(NamedTuple):
    """The server's address, with /v1, and a name of its model."""

    url: str
    model: str


class Skipped(Exception):
    """The server refused what its model cannot do, and said so; the message is the reason."""


def tell(checks: Sequence[Callable[[Asked], Any]]) -> None:
    """Run checks against the server that the command line names; print each one's result, all as JSON."""
    asked = Asked(*sys.argv[1:3])
    print(json.dumps({"results": [_result(check, asked) for check in checks]}, indent=2))


def _result(check: Callable[[Asked], Any], asked: Asked) -> dict[str, Any]:
    status, errors = "passed", []
    try:
        check(asked)
    except Skipped as reason:
        status, errors = "skipped", [str(reason)]
    except Exception as error:  # whatever an SDK raises is what it found
        own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == sys.argv[0]]
        where = f", at {own[-1].line}" if own else ""
        status, errors = "failed", [f"{type(error).__name__}: {str(error)[:MOST_CHARACTERS]}{where}"]
    return {"id": check.__name__, "status": status, "errors": errors}


def require(holds: object, what: str) -> None:
    """As `assert`, which says nothing without pytest."""
    if not holds:
        raise AssertionError(what)
