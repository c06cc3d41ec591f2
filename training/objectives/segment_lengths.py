"""How a run of tokens is cut into segments for training (arXiv 2305.14788, section 3.2)."""

import math
import random
from itertools import pairwise


def draw_lengths(num_tokens: int, num_segments: int, *, max_length: int, generator: random.Random) -> list[int]:
    """Cut a sequence at random, every set of break points that keeps segments within bounds being equally likely.

    As in the authors' trainer: the shortest segment has `max(ceil((num_tokens - max_length) / (num_segments - 1)), 2)`
    tokens, so that no other can grow beyond `max_length`.

    Raises:
        ValueError: so many segments do not fit.
    """
    if num_segments == 1:
        if num_tokens > max_length:
            raise ValueError(f"a segment of {num_tokens} tokens is longer than the {max_length} it may have")
        return [num_tokens]
    min_length = max(math.ceil((num_tokens - max_length) / (num_segments - 1)), 2)
    spare = num_tokens - num_segments * min_length
    if num_segments - 1 > spare:
        raise ValueError(
            f"{num_tokens} tokens cannot be cut into {num_segments} segments of {min_length} to {max_length} tokens"
        )
    breaks = [0, *sorted(generator.sample(range(spare), num_segments - 1)), spare]
    return [min_length + end - start for start, end in pairwise(breaks)]


def equal_lengths(num_tokens: int, num_segments: int) -> list[int]:
    """Cut a sequence into equal segments, the first ones a token longer where it does not divide.

    Raises:
        ValueError: more segments than tokens.
    """
    if num_segments > num_tokens:
        raise ValueError(f"{num_tokens} tokens cannot be cut into {num_segments} segments")
    length, longer = divmod(num_tokens, num_segments)
    return [length + 1] * longer + [length] * (num_segments - longer)
