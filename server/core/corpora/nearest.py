"""Passages near a query: an index of faiss over the means of their vectors (arXiv 2401.08281), by L2 distance."""

import importlib
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

NAME = "nearest.faiss"
ADDED_TOGETHER = 65536  # means in memory at a time
PROBED_CELLS = 32  # of an index that looks at some alone; faiss's own is 1
TRAINING_PASSAGES = 262_144  # as many as faiss looks at to learn 1,024 cells, and four times what it does for 256


class Nearest:
    """An index that is open. Searches run in threads, one core each: the engine's has the others."""

    def __init__(self, faiss: Any, index: Any) -> None:
        self._faiss = faiss
        self._index = index

    @classmethod
    def made(cls, means: NDArray[np.float32], factory: str) -> Self:
        """An index over means of passages, (N, D).

        Args:
            factory: as faiss's index_factory describes indexes: Flat, SQ8, "IVF1024,PQ64".

        Raises:
            ValueError: faiss is not installed, does not know the description, or has too few passages to learn from.
        """
        faiss = _faiss()
        try:
            index = faiss.index_factory(means.shape[1], factory)
            if not index.is_trained:
                step = -(-len(means) // TRAINING_PASSAGES)  # of the whole corpus: its parts may be of different sources
                index.train(np.ascontiguousarray(means[::step]))
            if cells := faiss.try_extract_index_ivf(index):
                cells.nprobe = min(cells.nlist, PROBED_CELLS)  # which is kept with the index
            for start in range(0, len(means), ADDED_TOGETHER):
                index.add(np.ascontiguousarray(means[start : start + ADDED_TOGETHER]))
        except RuntimeError as error:  # faiss's own, with its source line
            reason = str(error).rstrip().rpartition("\n")[2] or str(error)
            raise ValueError(f"faiss makes no {factory!r} of {len(means)} passages: {reason}") from error
        return cls(faiss, index)

    @classmethod
    def open(cls, path: Path, num_passages: int, width: int) -> Self:
        """What `save` wrote of so many means of so many numbers; ValueError for another, or where faiss is missing."""
        faiss = _faiss()
        try:
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)  # the other flag maps cells alone
        except RuntimeError as error:
            raise ValueError(f"faiss cannot read {str(path)!r}: make it again") from error
        if (index.ntotal, index.d) != (num_passages, width):
            raise ValueError(
                f"{str(path)!r} is of {index.ntotal} passages and {index.d} numbers each, not {num_passages} and "
                f"{width}: make it again"
            )
        return cls(faiss, index)

    def save(self, path: Path) -> None:
        self._faiss.write_index(self._index, str(path))

    def matches(self, mean: Tensor, count: int) -> list[tuple[int, float]]:
        """The numbers of the passages nearest to a mean, (D,), and their distances, the nearest first."""
        self._faiss.omp_set_num_threads(1)
        distances, numbers = self._index.search(mean.float().numpy()[None], min(count, self._index.ntotal))
        found = zip(numbers[0].tolist(), distances[0].tolist(), strict=True)
        # -1 where an index looks at too few cells to find so many; rounding makes squares slightly negative
        return [(number, max(0.0, distance) ** 0.5) for number, distance in found if number >= 0]


def _faiss() -> Any:
    try:
        return importlib.import_module("faiss")  # not at the top: it is an extra
    except ImportError as error:
        raise ValueError("nearest neighbours need faiss: pip install 'autocompressor[search]'") from error
