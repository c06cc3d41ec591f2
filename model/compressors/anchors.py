"""Which tokens of a segment its vectors stand at: the words that the base did not expect, each once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

REPEATED = 0.5  # nats: what a word gains in importance by each time that it comes again


@dataclass(frozen=True)
class Vocabulary:
    """What of a tokenizer's pieces the choice of anchors knows, by token id.

    Attributes:
        begins: whether the piece begins a word. is_mark: whether it has no letter and no digit.
    """

    begins: tuple[bool, ...]
    is_mark: tuple[bool, ...]

    @classmethod
    def of(cls, tokenizer: Any, size: int) -> "Vocabulary":
        """Of a tokenizer; without one every token is a word."""
        if tokenizer is None:
            return cls((True,) * size, (False,) * size)
        known = min(size, len(tokenizer))
        pieces = [piece or "" for piece in tokenizer.convert_ids_to_tokens(list(range(known)))]
        pieces += [""] * (size - known)
        # a blank is Ġ and a line's end Ċ in byte-level vocabularies, and ▁ in SentencePiece's
        begins = tuple(piece.startswith(("Ġ", "Ċ", "▁")) or not piece[:1].isalnum() for piece in pieces)
        is_mark = tuple(not any(sign.isalnum() for sign in piece.strip("ĠĊ▁")) for piece in pieces)
        return cls(begins, is_mark)

    def words(self, token_ids: Sequence[int]) -> list[list[int]]:
        """The places of each word's tokens, those without a letter or digit left out."""
        words: list[list[int]] = []
        for place, token_id in enumerate(token_ids):
            if words and not self.begins[token_id]:
                words[-1].append(place)
            else:
                words.append([place])
        return [word for word in words if not all(self.is_mark[token_ids[place]] for place in word)]


def by_importance(
    token_ids: Sequence[int], losses: Sequence[float], vocabulary: Vocabulary, num_anchors: int
) -> list[int]:
    """The places of the anchors, the most important first: `num_anchors` of them, or as many as there are tokens.

    A word is worth its loss, the square root of its length being taken off, as a name of many pieces would else push
    all else out. Its first place stands for all. A word goes in whole; what is left goes to the single tokens with the
    highest loss.

    Args:
        losses: of each token under the base's prediction, in nats.
    """
    worth: dict[tuple[int, ...], tuple[float, list[int]]] = {}
    for places in vocabulary.words(token_ids):
        word = tuple(token_ids[place] for place in places)
        value = sum(losses[place] for place in places) / len(places) ** 0.5
        if word in worth:
            before, first = worth[word]
            worth[word] = (max(value, before) + REPEATED, first)
        else:
            worth[word] = (value, places)
    chosen: list[int] = []
    for _, places in sorted(worth.values(), key=lambda each: (-each[0], each[1])):
        if len(chosen) + len(places) <= num_anchors:
            chosen += places
    taken = set(chosen)
    rest = sorted((place for place in range(len(token_ids)) if place not in taken), key=lambda place: -losses[place])
    return (chosen + rest)[:num_anchors]
