"""One turn of a WebSocket as whoever traces requests sees it (`middleware/traces.py`)."""

from collections.abc import Callable, Iterator, MutableMapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, cast

from server.tally import Tally

WATCH = "autocompressor.watch"  # in the scope of a connection whose turns are traced


@dataclass
class Outcome:
    """What became of a request; 500 until somebody knows."""

    status: int = 500


Watch = Callable[[Tally], AbstractContextManager[Outcome]]


def set_watch(scope: MutableMapping[str, Any], watch: Watch) -> None:
    """Have each turn of a connection run within what `watch` gives."""
    scope[WATCH] = watch


def watched(scope: MutableMapping[str, Any], tally: Tally) -> AbstractContextManager[Outcome]:
    """Around one turn, which tells its status."""
    return cast(Watch, scope.get(WATCH, _unwatched))(tally)


@contextmanager
def _unwatched(_: Tally) -> Iterator[Outcome]:
    yield Outcome()
