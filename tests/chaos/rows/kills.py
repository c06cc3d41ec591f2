"""The server killed, and asked to stop, in the middle of its work."""

import random
import signal
import time
from contextlib import ExitStack
from dataclasses import replace

from tests.chaos.house import (
    House,
    Load,
    fill,
    judge_kept,
    judge_load,
    judge_log,
    seconds_until_good,
    tell_seconds,
)
from tests.chaos.outcome import Outcome
from tests.redis_server import running_redis

MOST_ALIVE_SECONDS = 1.5  # of a server under load until it is killed
MOST_START_SECONDS = 45.0  # with Python and torch to load, on a busy machine
MOST_ANSWER_SECONDS = 5.0
SHUTDOWN_SECONDS = 10
KINDS = {"compress": 6, "again": 2, "generate": 4, "stream": 1, "export": 2, "delete": 2}


def kill_9_file(house: House, outcome: Outcome) -> None:
    _killed(house, outcome, f"sqlite:{house.folder}/store.sqlite3")


def kill_9_redis(house: House, outcome: Outcome) -> None:
    """Redis syncs every write."""
    with running_redis(house.folder) as url:
        _killed(house, outcome, url)


def _killed(house: House, outcome: Outcome, store: str) -> None:
    draw = random.Random(house.seed)
    starts, answers = [], []
    with ExitStack() as opened:
        served = opened.enter_context(house.served(store))
        fill(house, served, 1)
        with Load(house.plan(served.url, kinds=KINDS)) as clients:
            clients.wait_for(20)
            for number in range(house.rounds):
                time.sleep(draw.uniform(0, MOST_ALIVE_SECONDS))
                killed = time.monotonic()
                served.kill()
                served.start()
                starts.append(time.monotonic() - killed)
                answers.append(seconds_until_good(served, house.expected[0]))
                if (number + 1) % 10 == 0 or number + 1 == house.rounds:
                    house.say(f"{number + 1} of {house.rounds} kills, {clients.progress['answered']} answers")
        outcome.counts["kills"] = house.rounds
        judge_load(clients.record, outcome, down=served.down)
        judge_kept(house, served, clients.record, outcome)
        judge_log(served, outcome)
    tell_seconds(outcome, "start to ready", starts, most=MOST_START_SECONDS)
    tell_seconds(outcome, "ready to first good answer", answers, most=MOST_ANSWER_SECONDS)


def sigterm(house: House, outcome: Outcome) -> None:
    """Calls that were made before the signal are answered; later ones are, with 503, or find the socket closed."""
    draw = random.Random(house.seed)
    exits, late, statuses, stored = [], 0, [], set()
    flags = ("--shutdown-seconds", str(SHUTDOWN_SECONDS))
    kinds = {"stream": 4, "compress": 2, "generate": 4, "export": 1}
    with house.served(f"sqlite:{house.folder}/store.sqlite3", *flags) as served:
        for number in range(house.rounds):
            plan = house.plan(served.url, kinds=kinds, clients=8, stream_tokens=100, refusals=(503,))
            with Load(plan) as clients:
                clients.wait_for(10)
                time.sleep(draw.uniform(0, 1))
                told = time.monotonic()
                served.server.process.send_signal(signal.SIGTERM)
                statuses.append(served.server.process.wait(SHUTDOWN_SECONDS + 20))
                exits.append(time.monotonic() - told)
            record = clients.record
            outcome.faults += record.faults
            stored |= set(record.stored)
            outcome.add("answers", record.answered)
            cut = [one for one in record.unanswered if one["started"] < told]
            late += len(record.unanswered) - len(cut)
            outcome.faults += [f"{one['kind']} was cut off: {one['error']}" for one in cut]
            served.server.client.close()
            served.start()
            house.say(f"{number + 1} of {house.rounds} stops, the last in {exits[-1]:.1f} s")
        judge_kept(house, served, replace(record, stored=sorted(stored)), outcome)
        judge_log(served, outcome)
    outcome.counts["stops"] = house.rounds
    outcome.counts["refused after the signal"] = late
    outcome.counts["exit statuses other than 0"] = sum(status != 0 for status in statuses)
    outcome.require(not any(statuses), f"exit statuses {statuses}")
    tell_seconds(outcome, "signal to exit", exits, most=SHUTDOWN_SECONDS + 3)
