"""How far documents are, told to whoever watches them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Of a document, or of several together: segments `done` of `total`, of which `cached` were stored before.

    Attributes:
        tokens: of the segments that are done. vectors: that stand for them.
    """

    done: int
    total: int
    cached: int
    tokens: int
    vectors: int


Report = Callable[[Progress], None]


class Watchers:
    """Everyone who watches a document hears of each of its segments, whoever has it computed."""

    def __init__(self) -> None:
        self._reports: dict[str, list[Report]] = {}
        self._latest: dict[str, Progress] = {}

    @contextmanager
    def watching(self, key: str, report: Report | None) -> Iterator[None]:
        """While the body runs `report` hears what is told of `key`: at once where it is on its way already."""
        if report is None:
            yield
            return
        if key in self._latest:
            report(self._latest[key])
        reports = self._reports.setdefault(key, [])
        reports.append(report)
        try:
            yield
        finally:
            reports.remove(report)
            if not reports and self._reports.get(key) is reports:
                del self._reports[key]

    def tell(self, key: str, progress: Progress) -> None:
        """Of work on its way; `forget` it when it ends."""
        self._latest[key] = progress
        for report in tuple(self._reports.get(key, ())):
            report(progress)

    def forget(self, key: str) -> None:
        self._latest.pop(key, None)
