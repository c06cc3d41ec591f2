"""A circuit lets calls through, none, or one."""

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from server.store import EntryChanged, StoreUnavailable
from server.store.redis.circuit import MAX_FAILURES, OPEN_SECONDS, Circuit


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def circuit(clock: Clock) -> Circuit:
    """One on which so many calls failed that it is open."""
    made = Circuit(clock)
    for _ in range(MAX_FAILURES):
        fail(made)
    return made


def fail(circuit: Circuit, cause: Exception | None = None) -> None:
    with pytest.raises(StoreUnavailable, match="gone"), circuit.call():
        raise StoreUnavailable("gone") from (cause or RedisConnectionError())


def is_open(circuit: Circuit) -> bool:
    try:
        with circuit.call():
            return False
    except StoreUnavailable as error:
        return "calls in a row" in str(error)


def test_it_opens_after_failures_in_a_row_and_tells_the_last(circuit: Circuit) -> None:
    assert is_open(circuit)
    with pytest.raises(StoreUnavailable, match=r"5 calls in a row, and is tried again in 2\.0 seconds: gone"):
        circuit.call().__enter__()


@pytest.mark.parametrize("answer", [None, ResponseError("READONLY"), EntryChanged("a")])
def test_an_answer_of_any_kind_begins_the_count_anew(clock: Clock, answer: Exception | None) -> None:
    circuit = Circuit(clock)
    for _ in range(3):
        for _ in range(MAX_FAILURES - 1):
            fail(circuit)
        if isinstance(answer, ResponseError):
            fail(circuit, answer)
        elif answer is not None:
            with pytest.raises(EntryChanged), circuit.call():
                raise answer
        else:
            with circuit.call():
                pass
    assert not is_open(circuit)


def test_one_call_tries_while_the_others_fail(circuit: Circuit, clock: Clock) -> None:
    clock.now = OPEN_SECONDS - 0.01
    assert is_open(circuit)
    clock.now = OPEN_SECONDS
    with circuit.call():
        assert is_open(circuit)
    assert not is_open(circuit)


def test_a_try_that_fails_opens_it_for_as_long_again(circuit: Circuit, clock: Clock) -> None:
    clock.now = OPEN_SECONDS
    fail(circuit)
    assert is_open(circuit)
    clock.now += OPEN_SECONDS
    assert not is_open(circuit)


def test_a_try_that_is_cancelled_lets_the_next_one_try(circuit: Circuit, clock: Clock) -> None:
    clock.now = OPEN_SECONDS
    with pytest.raises(KeyboardInterrupt), circuit.call():
        raise KeyboardInterrupt
    with circuit.call():
        assert is_open(circuit)
    assert not is_open(circuit)
