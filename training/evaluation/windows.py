"""The windows of held-out documents that every model is scored on."""

import hashlib
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.data.documents import TokenisedDocuments
from training.evaluation.results import Evaluation
from training.evaluation.scores import Domain

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DomainWindows:
    """Windows of one domain.

    Attributes:
        tokens: (W, L). documents: (W,), the document that each is from, in ascending order.
    """

    tokens: NDArray[np.int64]
    documents: NDArray[np.int64]

    @classmethod
    def spread(cls, documents: TokenisedDocuments, length: int, max_windows: int) -> "DomainWindows | None":
        """At most `max_windows` windows, evenly over all that the documents hold; None where they hold none."""
        starts = documents.windows(length)
        if len(starts) == 0:
            return None
        starts = starts[np.linspace(0, len(starts) - 1, min(max_windows, len(starts))).astype(np.int64)]
        tokens = np.stack([documents.run(start, length) for start in starts])
        return cls(tokens, np.searchsorted(documents.starts, starts, side="right") - 1)

    def __len__(self) -> int:
        return len(self.tokens)

    def batches(self, size: int) -> Iterator[NDArray[np.int64]]:
        """The tokens of `size` windows at a time."""
        for first in range(0, len(self), size):
            yield self.tokens[first : first + size]

    def digest(self) -> str:
        return hashlib.sha256(self.tokens.astype("<i8").tobytes()).hexdigest()


@dataclass(frozen=True)
class Windows:
    """What is scored, of all domains; the fields are as in `Evaluation`."""

    segment_length: int
    contexts: tuple[int, ...]
    max_windows: int
    by_domain: Mapping[str, DomainWindows]
    in_domain: Collection[str] = ()

    @classmethod
    def of(
        cls,
        documents_by_domain: Mapping[str, TokenisedDocuments],
        *,
        segment_length: int,
        contexts: Sequence[int],
        max_windows: int,
        in_domain: Collection[str] = (),
    ) -> "Windows":
        """Windows of `max(contexts) + 1` segments. A domain without a document so long is left out, with a warning.

        Raises:
            ValueError: no domain is left, or a number is out of its range.
        """
        if segment_length < 2:
            raise ValueError(f"segment_length is {segment_length}; with the first token left out, 2 is the least")
        if not contexts or min(contexts) < 1:
            raise ValueError(f"contexts are {list(contexts)}; expected numbers of segments, from 1 on")
        if max_windows < 1:
            raise ValueError(f"max_windows is {max_windows}; it must be 1 or more")
        length = (max(contexts) + 1) * segment_length
        by_domain = {}
        for name, documents in documents_by_domain.items():
            windows = DomainWindows.spread(documents, length, max_windows)
            if windows is None:
                logger.warning("%s is left out: none of its documents has %d tokens", name, length)
            else:
                by_domain[name] = windows
        if not by_domain:
            raise ValueError(f"no document of {', '.join(documents_by_domain) or 'no domain'} has {length} tokens")
        return cls(segment_length, tuple(sorted(set(contexts))), max_windows, by_domain, in_domain)

    def unscored(self) -> Evaluation:
        """An evaluation of these windows, of no model yet."""
        domains = [Domain(name, found.digest(), name in self.in_domain) for name, found in self.by_domain.items()]
        domains.sort(key=lambda domain: not domain.is_in_domain)
        return Evaluation(self.segment_length, self.contexts, self.max_windows, tuple(domains), models={})
