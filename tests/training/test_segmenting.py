"""Segment lengths: within bounds, of the right sum; of random ones every cut is as likely as any other."""

import random
from collections import Counter

import pytest

from training.objectives.segment_lengths import draw_lengths, equal_lengths

# --- random


def draws(num_tokens: int, num_segments: int, *, max_length: int, count: int) -> list[list[int]]:
    generator = random.Random(0)
    return [draw_lengths(num_tokens, num_segments, max_length=max_length, generator=generator) for _ in range(count)]


@pytest.mark.parametrize(
    ("num_tokens", "num_segments", "max_length"),
    [(3072, 2, 2048), (3072, 2, 4096), (544, 2, 384), (1000, 4, 400), (1000, 7, 150), (64, 16, 64), (10, 2, 6)],
)
def test_lengths_add_up_within_bounds(num_tokens: int, num_segments: int, max_length: int) -> None:
    for lengths in draws(num_tokens, num_segments, max_length=max_length, count=300):
        assert len(lengths) == num_segments
        assert sum(lengths) == num_tokens
        assert min(lengths) >= 2
        assert max(lengths) <= max_length


def test_the_published_lengths_of_opt_6k() -> None:
    """Slices of 3072 tokens, two segments, 2048 positions: 1024 to 2047 tokens, all as likely, then the rest.

    The authors' `random_segment_lengths` draws break points without replacement from `range(1024)` and adds 1024.
    """
    firsts, seconds = zip(*draws(3072, 2, max_length=2048, count=40_960), strict=True)
    counts = Counter(firsts)
    assert set(counts) == set(range(1024, 2048))
    assert (min(seconds), max(seconds)) == (1025, 2048)
    # of 40 for each length expected, chi-squared has 1023 degrees of freedom: a mean of 1023, a deviation of 45
    assert sum((count - 40) ** 2 / 40 for count in counts.values()) < 1023 + 4 * 45


def test_the_published_lengths_of_llama() -> None:
    """Slices of 3072 tokens, two segments, 4096 positions: a first segment of 2 to 3069 tokens."""
    firsts = [first for first, _ in draws(3072, 2, max_length=4096, count=60_000)]
    assert (min(firsts), max(firsts)) == (2, 3069)


def test_every_cut_is_as_likely() -> None:
    """Of 10 tokens in three segments of at least 2, the breaks are two of four places: six cuts."""
    counts = Counter(map(tuple, draws(10, 3, max_length=9, count=6000)))
    assert set(counts) == {(2, 3, 5), (2, 4, 4), (2, 5, 3), (3, 3, 4), (3, 4, 3), (4, 3, 3)}
    assert all(900 < count < 1100 for count in counts.values())  # 1000 each; the standard deviation is 29


def test_one_segment_is_the_whole() -> None:
    assert draw_lengths(100, 1, max_length=128, generator=random.Random(0)) == [100]


def test_the_generator_decides() -> None:
    def drawn(seed: int) -> list[int]:
        return draw_lengths(1000, 4, max_length=400, generator=random.Random(seed))

    assert drawn(1) == drawn(1) != drawn(2)


@pytest.mark.parametrize(("num_tokens", "num_segments", "max_length"), [(10, 5, 10), (100, 2, 49), (3, 2, 8)])
def test_segments_that_do_not_fit(num_tokens: int, num_segments: int, max_length: int) -> None:
    sentence = rf"{num_tokens} tokens cannot be cut into {num_segments} segments of \d+ to {max_length} tokens"
    with pytest.raises(ValueError, match=sentence):
        draw_lengths(num_tokens, num_segments, max_length=max_length, generator=random.Random(0))


# --- equal


@pytest.mark.parametrize(
    ("num_tokens", "num_segments", "lengths"),
    [(12, 3, [4, 4, 4]), (14, 4, [4, 4, 3, 3]), (5, 5, [1] * 5), (7, 1, [7]), (6144, 2, [3072, 3072])],
)
def test_equal_lengths(num_tokens: int, num_segments: int, lengths: list[int]) -> None:
    assert equal_lengths(num_tokens, num_segments) == lengths


def test_equal_lengths_add_up_and_differ_by_one_at_most() -> None:
    for num_tokens in range(1, 60):
        for num_segments in range(1, num_tokens + 1):
            lengths = equal_lengths(num_tokens, num_segments)
            assert (len(lengths), sum(lengths)) == (num_segments, num_tokens)
            assert max(lengths) - min(lengths) <= 1
            assert lengths == sorted(lengths, reverse=True)


def test_more_equal_segments_than_tokens() -> None:
    with pytest.raises(ValueError, match="5 tokens cannot be cut into 6 segments"):
        equal_lengths(5, 6)
