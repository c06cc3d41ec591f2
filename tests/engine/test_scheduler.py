"""The scheduler alone: no tensors, no threads."""

import random
from collections.abc import Sequence

import pytest

from server.engine.protocol import SamplingParams
from server.engine.requests import Compression, Generation, Phase, Piece, Request, Scoring
from server.engine.scheduler import Limits, Scheduler


def ignore(result: object) -> None:
    """Take a result that the test does not look at."""


def generation(num_tokens: int = 4, soft_prompt_length: int = 0) -> Generation:
    return Generation(ignore, None, soft_prompt_length, (1,) * num_tokens, SamplingParams(8), None, None)  # type: ignore[arg-type]


def compression(*lengths: int) -> Compression:
    return Compression(ignore, [[1] * length for length in lengths], None, 0)


def scoring(*lengths: int) -> Scoring:
    return Scoring(ignore, None, 0, (1, 1), [(1,) * length for length in lengths])


def scheduler(*, max_running: int = 2, max_requests: int = 100, max_batch_tokens: int = 100) -> Scheduler:
    return Scheduler(Limits(max_running, 100, max_requests, max_batch_tokens), summary_length=4)


def described(pieces: Sequence[Piece]) -> list[tuple[str, int, int]]:
    return [(piece.phase.value, piece.index, piece.num_positions) for piece in pieces]


def step(line: Scheduler) -> list[Piece]:
    pieces = line.schedule()
    for piece in pieces:
        line.complete(piece)
    return pieces


def test_a_generation_is_prefilled_once_and_then_decodes() -> None:
    line = scheduler()
    line.submit(generation(num_tokens=4, soft_prompt_length=6))
    assert described(step(line)) == [("prefill", 0, 10)]
    assert described(step(line)) == [("decode", 0, 1)]
    assert line.requests[0].num_cached == 11  # type: ignore[attr-defined]


def test_a_document_runs_a_segment_a_step_with_room_for_its_summary_tokens() -> None:
    line, document = scheduler(), compression(10, 3)
    line.submit(document)
    assert described(step(line)) == [("segment", 0, 14)]
    document.soft_prompt_length = 4
    assert described(step(line)) == [("segment", 1, 11)]


def test_decodes_come_first_and_are_never_held_back_by_documents() -> None:
    line = scheduler(max_batch_tokens=20)
    line.submit(generation())
    step(line)
    for _ in range(3):
        line.submit(compression(15, 15, 15))
    for _ in range(5):
        assert [piece.phase for piece in step(line)] == [Phase.DECODE, Phase.SEGMENT]


def test_documents_take_turns() -> None:
    line, first, second = scheduler(max_batch_tokens=15), compression(10, 10, 10), compression(10, 10)
    line.submit(first)
    line.submit(second)
    assert [step(line)[0].request for _ in range(4)] == [first, second, first, second]


def test_a_large_piece_is_not_passed_by_smaller_ones_behind_it() -> None:
    line, large = scheduler(max_batch_tokens=30), compression(25)
    line.submit(compression(5))
    line.submit(large)
    line.submit(compression(1))
    assert described(line.schedule()) == [("segment", 0, 9)]


def test_a_piece_over_the_whole_budget_runs_alone() -> None:
    line = scheduler(max_batch_tokens=10)
    line.submit(compression(50))
    line.submit(compression(1))
    assert described(line.schedule()) == [("segment", 0, 54)]


def test_a_generation_without_a_free_row_waits_and_documents_pass_it() -> None:
    line = scheduler(max_running=1)
    line.submit(generation())
    line.submit(generation())
    line.submit(compression(3, 3))
    assert [piece.phase for piece in step(line)] == [Phase.PREFILL, Phase.SEGMENT]
    line.remove(line.requests[0])
    assert Phase.PREFILL in [piece.phase for piece in step(line)]


def test_continuations_share_a_batch_as_far_as_they_fit() -> None:
    line, request = scheduler(max_batch_tokens=12), scoring(3, 3, 3, 3)
    line.submit(request)
    assert described(step(line)) == [("score", 0, 4), ("score", 1, 4), ("score", 2, 4)]
    assert described(step(line)) == [("score", 3, 4)]


def test_a_cancelled_request_frees_its_row_at_the_next_step() -> None:
    line = scheduler(max_running=1)
    first, second = generation(), generation()
    line.submit(first)
    line.submit(second)
    step(line)
    first.is_cancelled = True
    assert [piece.request for piece in step(line)] == [second]
    assert first.row is None


def test_is_full_counts_running_and_waiting() -> None:
    line = scheduler(max_running=1, max_requests=2)
    line.submit(generation())
    step(line)
    assert not line.is_full
    line.submit(compression(1))
    assert line.is_full


@pytest.mark.parametrize("seed", range(5))
def test_random_work_keeps_the_invariants(seed: int) -> None:
    """No row is lost or shared, no request is forgotten, the budget holds, whatever arrives and leaves."""
    generator = random.Random(seed)
    line = scheduler(max_running=3, max_requests=12, max_batch_tokens=40)
    accepted: set[int] = set()
    ended: set[int] = set()
    for _ in range(2_000):
        if generator.random() < 0.5 and not line.is_full:
            request = random_request(generator)
            accepted.add(id(request))
            line.submit(request)
            keep_alive.append(request)
        if line.requests and generator.random() < 0.1:
            generator.choice(line.requests).is_cancelled = True
        ended |= {id(request) for request in line.requests if request.is_cancelled}
        pieces = line.schedule()
        check_batch(pieces, line)
        for piece in pieces:
            line.complete(piece)
        for request in {id(piece.request): piece.request for piece in pieces}.values():
            if is_over(request, generator):
                line.remove(request)
                ended.add(id(request))
        assert {id(request) for request in line.requests} == accepted - ended
    while line.requests:
        line.remove(line.requests[0])
    assert sorted(line._free_rows) == [0, 1, 2]


keep_alive: list[Request] = []  # so that no id is used twice


def random_request(generator: random.Random) -> Request:
    lengths = [generator.randint(1, 30) for _ in range(generator.randint(1, 4))]
    return generator.choice(
        [lambda: generation(lengths[0]), lambda: compression(*lengths), lambda: scoring(*lengths)]
    )()


def is_over(request: Request, generator: random.Random) -> bool:
    if isinstance(request, Generation):
        return generator.random() < 0.2
    if isinstance(request, Compression):
        return request.next_segment == len(request.segments)
    assert isinstance(request, Scoring)
    return request.next_continuation == len(request.continuations)


def check_batch(pieces: Sequence[Piece], line: Scheduler) -> None:
    phases = [piece.phase for piece in pieces]
    num_decodes = phases.count(Phase.DECODE)
    assert phases[:num_decodes] == [Phase.DECODE] * num_decodes
    rows = [piece.request.row for piece in pieces if isinstance(piece.request, Generation)]
    assert len(set(rows)) == len(rows) == line.num_running
    others = [piece.num_positions for piece in pieces[num_decodes:]]
    assert num_decodes + sum(others) <= line.limits.max_batch_tokens or len(others) == 1
    assert not any(piece.request.is_cancelled for piece in pieces)
    assert pieces or not line.requests
