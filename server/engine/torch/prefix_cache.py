"""Keys and values of soft prompts that were read lately, found by the ids of the segments they consist of."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from cachetools import LRUCache


class Sized(Protocol):
    @property
    def nbytes(self) -> int: ...


@dataclass(frozen=True, eq=False)
class Prefix:
    """A soft prompt that was read: its keys and values, and the positions that each of its leading parts ends at."""

    strip: Sized
    ends: dict[str, int]


def running_hashes(keys: Sequence[str]) -> list[str]:
    """One hash for each leading part of a sequence of segment ids."""
    whole = hashlib.sha256()
    hashes = []
    for key in keys:
        whole.update(key.encode() + b"\n")
        hashes.append(whole.hexdigest())
    return hashes


class PrefixCache:
    """Keeps the prefixes used last, up to a number of bytes. Used by one thread."""

    def __init__(self, max_bytes: int) -> None:
        self._prefixes = _Prefixes(max_bytes)  # by the hash of the whole

    @property
    def num_bytes(self) -> int:
        return int(self._prefixes.currsize)

    def find(self, hashes: Sequence[str]) -> tuple[Prefix, int] | None:
        """The longest leading part that is there, as a prefix and how many of its positions; None for nothing."""
        for part in reversed(hashes):
            whole = self._prefixes.whole_of.get(part)
            if whole is not None:
                prefix = self._prefixes[whole]
                return prefix, prefix.ends[part]
        return None

    def has(self, hashes: Sequence[str]) -> bool:
        """Whether the whole is there."""
        return hashes[-1] in self._prefixes.whole_of

    def put(self, hashes: Sequence[str], ends: Sequence[int], strip: Sized) -> None:
        """Keep a soft prompt whose leading parts have these hashes and end at these positions.

        What is larger than the whole cache is not kept; shorter ones that it begins with are let go.
        """
        whole = hashes[-1] if hashes else None
        if whole is None or whole in self._prefixes.whole_of or strip.nbytes > self._prefixes.maxsize:
            return
        for part in hashes:
            self._prefixes.pop(part, None)  # a shorter one: the new one has all of it
        self._prefixes[whole] = Prefix(strip, dict(zip(hashes, ends, strict=True)))


class _Prefixes(LRUCache[str, Prefix]):
    """Also finds, of each leading part, a whole that has it."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(max_bytes, getsizeof=lambda prefix: prefix.strip.nbytes)
        self.whole_of: dict[str, str] = {}

    def __setitem__(self, whole: str, prefix: Prefix) -> None:
        super().__setitem__(whole, prefix)
        self.whole_of.update(dict.fromkeys(prefix.ends, whole))

    def __delitem__(self, whole: str) -> None:
        ends = self[whole].ends
        super().__delitem__(whole)
        for part in ends:
            if self.whole_of.get(part) == whole:
                del self.whole_of[part]
