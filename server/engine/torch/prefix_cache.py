"""Keys and values of soft prompts that were read lately, found by the ids of the segments they consist of."""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


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
        self._max_bytes = max_bytes
        self._prefixes: OrderedDict[str, Prefix] = OrderedDict()  # by the hash of the whole, the oldest use first
        self._whole_of: dict[str, str] = {}  # the hash of a leading part to that of a whole which has it
        self.num_bytes = 0

    def find(self, hashes: Sequence[str]) -> tuple[Prefix, int] | None:
        """The longest leading part that is there, as a prefix and how many of its positions; None for nothing."""
        for part in reversed(hashes):
            whole = self._whole_of.get(part)
            if whole is not None:
                self._prefixes.move_to_end(whole)
                prefix = self._prefixes[whole]
                return prefix, prefix.ends[part]
        return None

    def has(self, hashes: Sequence[str]) -> bool:
        """Whether the whole is there."""
        return hashes[-1] in self._whole_of

    def put(self, hashes: Sequence[str], ends: Sequence[int], strip: Sized) -> None:
        """Keep a soft prompt whose leading parts have these hashes and end at these positions.

        What is larger than the whole cache is not kept; shorter ones that it begins with are let go.
        """
        whole = hashes[-1] if hashes else None
        if whole is None or whole in self._whole_of or strip.nbytes > self._max_bytes:
            return
        for part in hashes:
            if part in self._prefixes:  # a shorter one: the new one has all of it
                self._remove(part)
        self._prefixes[whole] = Prefix(strip, dict(zip(hashes, ends, strict=True)))
        self._whole_of.update(dict.fromkeys(hashes, whole))
        self.num_bytes += strip.nbytes
        while self.num_bytes > self._max_bytes:
            self._remove(next(iter(self._prefixes)))

    def _remove(self, whole: str) -> None:
        prefix = self._prefixes.pop(whole)
        self.num_bytes -= prefix.strip.nbytes
        for part in prefix.ends:
            if self._whole_of.get(part) == whole:
                del self._whole_of[part]
