"""The scheduler alone: no tensors, no threads."""

import random
from collections.abc import Sequence
from itertools import accumulate

import pytest

from server.engine.protocol import SamplingParams
from server.engine.torch.requests import Compression, Generation, Phase, Piece, Request, Scoring
from server.engine.torch.scheduler import Limits, Scheduler


def ignore(result: object) -> None:
    """Take a result that the test does not look at."""


def generation(num_tokens: int = 4, soft_prompt_length: int = 0) -> Generation:
    return Generation(ignore, None, soft_prompt_length, (1,) * num_tokens, SamplingParams(8), None, None)  # type: ignore[arg-type]


def compression(*lengths: int, is_bulk: bool = False) -> Compression:
    segments = [[1] * length for length in lengths]
    return Compression(ignore, None, 0, segments, strip_length=4 * (len(segments) - 1), is_bulk=is_bulk)


def scoring(*lengths: int) -> Scoring:
    return Scoring(ignore, None, 0, (1, 1), [(1,) * length for length in lengths])


def scheduler(*, max_running: int = 2, max_batch_tokens: int = 100) -> Scheduler:
    return Scheduler(Limits(max_running, 100, max_batch_tokens), num_appended=4)


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
    assert described(step(line)) == [("vectors", 0, 6)]
    assert described(step(line)) == [("prefill", 0, 4)]
    assert described(step(line)) == [("decode", 0, 1)]
    assert line.requests[0].num_known == 11


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


def test_few_segments_run_beside_generations_however_many_documents_there_are() -> None:
    line = Scheduler(Limits(2, 100, 1000, segments_together=2, segments_beside=3), num_appended=4)
    for document in [compression(10, 10, 10, 10) for _ in range(4)]:
        document.reads_alone = True
        line.submit(document)
    assert len(step(line)) == 8  # nobody waits for a token
    line.submit(generation())
    phases = [piece.phase for piece in step(line)]
    assert Phase.PREFILL in phases
    assert phases.count(Phase.SEGMENT) == 3  # nor for the first
    for _ in range(16):
        line.submit(compression(10, 10))
    line.submit(generation())  # prompts pass documents whose turn it is not
    phases = [piece.phase for piece in step(line)]
    assert phases.count(Phase.SEGMENT) == 3
    assert phases[0] is Phase.DECODE
    assert Phase.PREFILL in phases
    turns = [piece.request for _ in range(9) for piece in step(line) if piece.phase is Phase.SEGMENT]
    assert len(turns) == 27
    assert len({id(request) for request in turns}) > 9  # and each has its turn


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
    assert described(step(line)) == [("prompt", 0, 1)]
    assert described(step(line)) == [("score", 0, 3), ("score", 1, 3), ("score", 2, 3), ("score", 3, 3)]


def test_a_cancelled_request_frees_its_row_at_the_next_step() -> None:
    line = scheduler(max_running=1)
    first, second = generation(), generation()
    line.submit(first)
    line.submit(second)
    step(line)
    first.is_cancelled = True
    assert [piece.request for piece in step(line)] == [second]
    assert first.row is None


MAX_HELD = 12
MAX_OF_DOCUMENTS, MAX_OF_PROMPTS = 20, 45  # positions of strips; a prompt's has up to 41
BLOCK = 5  # tokens


def is_prompt(piece: Piece) -> bool:
    """Whether it reads the first tokens after a soft prompt, which is read by then."""
    is_alone = isinstance(piece.request, Scoring) and len(piece.request.continuations) == 1
    return piece.phase in (Phase.PREFILL, Phase.PROMPT) or (piece.phase is Phase.SCORE and is_alone)


def reads(piece: Piece) -> Sequence[str]:
    """The soft prompt or the block that it reads, by the hash of all up to its end."""
    request = piece.request
    if piece.phase is Phase.BLOCK:
        assert isinstance(request, Generation)
        return request.hashes_to(piece.index + 1)[-1:]
    if piece.phase is Phase.VECTORS:
        return (request.hashes_to(0) if isinstance(request, Generation) else request.hashes)[-1:]
    return ()


class Line:
    """A scheduler under random work, with what an engine would hold beside it: rows, shared soft prompts, answers."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.known: dict[str, int] = {}
        limits = Limits(
            max_running=3,
            max_sequence_tokens=100,
            max_batch_tokens=40,
            max_document_positions=MAX_OF_DOCUMENTS,
            max_prompt_positions=MAX_OF_PROMPTS,
        )
        self.scheduler = Scheduler(limits, num_appended=4, find_prefix=self.find_prefix)
        self.rows: dict[int, Request] = {}  # whose keys and values lie in a row
        self.arrived: list[Request] = []
        self.ended: set[Request] = set()
        self.begun: set[Request] = set()
        self.batch: list[Piece] = []

    def find_prefix(self, request: Request) -> int:
        return max((self.known.get(part, 0) for part in request.hashes), default=0)

    def step(self) -> None:
        self.arrive()
        self.cancel()
        self.batch = self.scheduler.schedule()
        for source, target, _ in self.scheduler.take_moves():
            self.rows[target] = self.rows[source]
        for piece in self.batch:
            if piece.phase is Phase.PREFILL:
                assert isinstance(piece.request, Generation)
                assert piece.request.row is not None
                self.rows[piece.request.row] = piece.request
        self.check()
        for piece in self.batch:
            if self.random.random() < 0.02:  # a forward pass that failed
                self.end(piece.request)
        for piece in self.batch:
            if piece.request not in self.ended:
                self.run(piece)
        if self.known and self.random.random() < 0.1:
            self.known.pop(self.random.choice(list(self.known)))

    def arrive(self) -> None:
        for _ in range(self.random.randrange(3)):
            if len(self.scheduler.requests) >= MAX_HELD:
                return
            request = random_request(self.random)
            self.arrived.append(request)
            self.scheduler.submit(request)

    def cancel(self) -> None:
        if self.scheduler.requests and self.random.random() < 0.1:
            request = self.random.choice(self.scheduler.requests)
            request.is_cancelled = True
            self.ended.add(request)

    def run(self, piece: Piece) -> None:
        request = piece.request
        self.scheduler.complete(piece)
        if piece.phase in (Phase.VECTORS, Phase.BLOCK):
            if request.read_hashes:
                has_blocks = piece.phase is Phase.BLOCK and isinstance(request, Generation)
                read = request.block_start(piece.index + 1) if has_blocks else request.soft_prompt_length
                self.known[request.read_hashes[-1]] = read
            return
        if isinstance(request, Generation):
            request.generated.append(1)
        if is_over(request, self.random):
            self.end(request)
        elif isinstance(request, Compression):
            request.soft_prompt_length += 4

    def end(self, request: Request) -> None:
        if request not in self.ended:
            self.ended.add(request)
            self.scheduler.remove(request)

    def check(self) -> None:
        """No row lost or shared, no request forgotten, the budget kept, whoever came first served first."""
        scheduler, batch = self.scheduler, self.batch
        assert set(scheduler.requests) == set(self.arrived) - self.ended
        phases = [piece.phase for piece in batch]
        num_decodes = phases.count(Phase.DECODE)
        assert phases[:num_decodes] == [Phase.DECODE] * num_decodes
        own = [piece.request for piece in batch if piece.phase in (Phase.PREFILL, Phase.DECODE)]
        assert [request.row for request in own] == list(range(scheduler.num_running))
        assert [self.rows[row] for row in range(len(own))] == own
        for request in (piece.request for piece in batch if is_prompt(piece)):
            assert isinstance(request, Generation | Scoring)
            is_bare = not request.prompt_ids  # the last vector is read again
            num_blocks = request.num_blocks if isinstance(request, Generation) else 0
            assert request.num_known == request.soft_prompt_length + BLOCK * num_blocks - is_bare
        others = [piece.num_positions for piece in batch[num_decodes:]]
        assert num_decodes + sum(others) <= scheduler.limits.max_batch_tokens or len(others) == 1
        assert all(piece.num_positions > 0 and not piece.request.is_cancelled for piece in batch)
        assert batch or not scheduler.requests
        holding = [each for each in scheduler.requests if each.is_started]
        documents = [each.strip_length for each in holding if isinstance(each, Compression)]
        prompts = [
            each.strip_length
            for each in holding
            if not isinstance(each, Compression) and not (isinstance(each, Generation) and each.generated)
        ]
        assert sum(documents) <= MAX_OF_DOCUMENTS
        assert sum(prompts) <= MAX_OF_PROMPTS
        read = [name for piece in batch for name in reads(piece)]
        assert len(set(read)) == len(read)  # no soft prompt and no block twice in one batch
        new = list(dict.fromkeys(piece.request for piece in batch if piece.request not in self.begun))
        self.check_order(new)
        self.begun |= set(new)

    def check_order(self, new: Sequence[Request]) -> None:
        """Nobody starts before an earlier one of his kind, but for those who wait for a soft prompt being read, and
        those who wait for room where he needs none or is in more of a hurry.
        """
        being_read = {name for piece in self.batch for name in reads(piece)}
        for request in new:
            for earlier in self.arrived[: self.arrived.index(request)]:
                if earlier.strip_length and not request.strip_length:
                    continue
                if getattr(earlier, "is_bulk", False) and not getattr(request, "is_bulk", True):
                    continue
                if type(earlier) is type(request) and earlier not in self.ended and not earlier.is_started:
                    assert earlier.hashes, "passed"
                    assert not being_read.isdisjoint(earlier.hashes), "passed"


@pytest.mark.parametrize("seed", range(5))
def test_random_work_keeps_the_invariants(seed: int) -> None:
    """10,000 steps in all of arrivals, cancellations, failures and full lines."""
    line = Line(seed)
    for _ in range(2_000):
        line.step()
    assert len(line.arrived) > 1_000
    while line.scheduler.requests:  # and everyone who is left is answered
        line.random.random()
        line.batch = line.scheduler.schedule()
        line.scheduler.take_moves()
        for piece in line.batch:
            if piece.request not in line.ended:
                line.run(piece)
    assert set(line.arrived) == line.ended
    assert line.scheduler.num_running == 0


def random_request(generator: random.Random) -> Request:
    lengths = [generator.randint(1, 30) for _ in range(generator.randint(1, 4))]
    kind = generator.randrange(3)
    if kind == 0:
        return compression(*lengths, is_bulk=generator.random() < 0.5)
    request = generation(lengths[0]) if kind == 1 else scoring(*lengths)
    if generator.random() < 0.6:
        request.hashes = [generator.choice("abc")]
        request.soft_prompt_length = 12
        if generator.random() < 0.3:
            request.prompt_ids = ()
    if isinstance(request, Generation) and (request.hashes or not request.soft_prompt_length):
        request.block_tokens, request.num_blocks = BLOCK, max(0, len(request.prompt_ids) - 1) // BLOCK
        begins = [*request.hashes] or [generator.choice("def")]
        named = (f"{begins[-1]}{generator.choice('12')}" for _ in range(request.num_blocks))
        request.hashes = [*request.hashes, *accumulate(named)]
    return request


def is_over(request: Request, generator: random.Random) -> bool:
    if isinstance(request, Generation):
        return generator.random() < 0.2
    if isinstance(request, Compression):
        return request.next_segment == len(request.segments)
    assert isinstance(request, Scoring)
    return request.next_continuation == len(request.continuations)
