"""The curve of forgetting: what fits is filled, nothing old is kept better than what is newer."""

import pytest

from server.core.prompts.forgetting import in_proportion, remembered

COUNTS = [(64,) * 10, (64,) * 200, (64,) * 1999 + (7,), (4,) * 33, (1,) * 50, (64, 3, 64, 1, 64)]


@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("room", [1, 5, 63, 64, 500, 4096, 10**6])
def test_what_is_kept_is_all_that_fits(counts: tuple[int, ...], room: int) -> None:
    for kept in (remembered(counts, room), in_proportion(counts, room)):
        assert sum(kept) == min(room, sum(counts))
        assert len(kept) == len(counts)
        assert all(0 <= own <= most for own, most in zip(kept, counts, strict=True))


@pytest.mark.parametrize("num_segments", [65, 200, 2000, 8000])
@pytest.mark.parametrize("block", [1, 16])
def test_older_segments_never_keep_more(num_segments: int, block: int) -> None:
    kept = remembered((64,) * num_segments, 4096, block=block)
    assert list(kept) == sorted(kept)
    assert sum(kept) <= 4096
    assert kept[-1] > kept[0]
    if num_segments <= 4096:
        assert kept[0] >= 1, "the oldest keeps its most important vector as long as there is room for one of each"
    if block == 1:
        assert kept[-1] == 64, "the newest is whole"


def test_a_segment_that_came_to_be_older_keeps_no_more_than_before() -> None:
    before: tuple[int, ...] = ()
    for num_segments in range(1, 300):
        kept = remembered((64,) * num_segments, 4096)
        assert all(new <= old for new, old in zip(kept, before, strict=False))
        before = kept


def test_what_older_segments_keep_changes_once_a_block() -> None:
    changes = 0
    before: tuple[int, ...] = ()
    for num_segments in range(70, 70 + 160):
        kept = remembered((64,) * num_segments, 4096, block=16)
        changes += kept[: len(before)] != before
        before = kept
    assert changes <= 160 // 16 + 1


@pytest.mark.parametrize("room", [1, 3, 20, 40])
def test_where_little_fits_nothing_is_kept_free_for_what_is_to_come(room: int) -> None:
    assert sum(remembered((2,) * 67, room, block=8)) >= min(room, 16)


def test_shares_in_proportion_are_equal_but_for_rounding() -> None:
    kept = in_proportion((64,) * 7 + (10,), 100)
    assert max(kept[:7]) - min(kept[:7]) <= 1
    assert in_proportion((4, 4, 2), 5) == (2, 2, 1)
