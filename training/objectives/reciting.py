"""Tails that recite: cues, each followed by a run of the segment's own tokens.

Continuing a text needs its gist; what a reader is asked for later are its words, and these rows are scored on them.
"""

import random
from collections.abc import Iterator, Sequence

from transformers import PreTrainedTokenizerBase

from training.objectives.tails import Tail, encoded, request

CUES = ('\n\nThe text says: "', "\n\nQuote: ", "\n\n", "\n\nAs said above, ")
REQUEST = "Repeat a part of the text."
REQUESTED = 0.25  # the share of runs that are asked for in a chat's words
RUN_TOKENS = (8, 12, 24, 48)


def recite(
    segment: Sequence[int], num_tokens: int, tokenizer: PreTrainedTokenizerBase, generator: random.Random
) -> Tail:
    """So many tokens of cues and runs of a segment, which are the answers."""
    tail = Tail([], [])
    for cue, run in runs(segment, tokenizer, generator):
        tail = tail.then(cue).then(run, is_answer=True)
        if len(tail.ids) >= num_tokens:
            break
    return tail.cut(num_tokens)


def runs(
    segment: Sequence[int], tokenizer: PreTrainedTokenizerBase, generator: random.Random
) -> Iterator[tuple[list[int], list[int]]]:
    """Without end: a cue, and a run of the segment to follow it, both as tokens; ValueError of an empty segment."""
    if not segment:
        raise ValueError("a segment of 0 tokens has nothing to recite")
    while True:
        is_requested = generator.random() < REQUESTED
        cue = request(tokenizer, REQUEST) if is_requested else encoded(tokenizer, generator.choice(CUES))
        length = min(generator.choice(RUN_TOKENS), len(segment))
        start = generator.randrange(len(segment) - length + 1)
        yield cue, list(segment[start : start + length])
