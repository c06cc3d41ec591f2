"""Keys and values of prompts' beginnings that were read lately, found by what they consist of: ids of segments, then
blocks of tokens.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from cachetools import LRUCache

from server.engine.protocol import Prompt


class Sized(Protocol):
    @property
    def nbytes(self) -> int: ...


@dataclass(frozen=True, eq=False)
class Prefix:
    """A beginning that was read: its keys and values, and the positions that each of its leading parts ends at."""

    strip: Sized
    ends: dict[str, int]


def running_hashes(keys: Sequence[str]) -> list[str]:
    """One hash for each leading part of a sequence of names."""
    whole = hashlib.sha256()
    hashes = []
    for key in keys:
        whole.update(key.encode() + b"\n")
        hashes.append(whole.hexdigest())
    return hashes


def parts_of(prompt: Prompt, block_tokens: int, max_positions: int) -> tuple[list[str], list[int]]:
    """What of a prompt is kept for others that begin as it does: a part for each segment and for each block of tokens.

    A prompt's last token is in no block, as what follows is drawn from its state. Nothing of a soft prompt that has no
    known origin is kept.

    Args:
        block_tokens: of one block. max_positions: beyond which nothing is worth keeping.

    Returns:
        Of each part a name and how many positions it has.
    """
    num_vectors = prompt.num_positions - len(prompt.token_ids)
    if num_vectors and not prompt.keys:
        return [], []
    names = list(prompt.keys)
    lengths = list(prompt.key_lengths) or [num_vectors // len(names) for _ in names]
    room = max_positions - num_vectors
    if prompt.scope is not None:
        for start in range(0, min(len(prompt.token_ids) - 1, room) - block_tokens + 1, block_tokens):
            block = prompt.token_ids[start : start + block_tokens]
            names.append(f"{prompt.scope}:{','.join(map(str, block))}")
            lengths.append(block_tokens)
    return names, lengths


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
        """Keep a beginning whose leading parts have these hashes and end at these positions.

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
