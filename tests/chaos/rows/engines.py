"""An engine whose forward passes fail, and one that ends."""

import signal
import sys
import time

import httpx

from tests.chaos.failing import INJECTED
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

ONE_IN = 20
PROGRAM = (sys.executable, "-m", "tests.chaos.failing", str(ONE_IN))
NEVER = (sys.executable, "-m", "tests.chaos.failing", str(10**9))
KINDS = {"compress": 4, "again": 1, "generate": 4, "stream": 2, "export": 2, "score": 1, "delete": 3, "leave": 1}
MOST_TOLD_SECONDS = 5.0
MOST_START_SECONDS = 45.0


def engine_fails(house: House, outcome: Outcome) -> None:
    """One pass in twenty fails: before it, before its last layer, after it, or with values that are no numbers."""
    with house.served(f"sqlite:{house.folder}/store.sqlite3", program=PROGRAM) as served:
        with Load(house.plan(served.url, clients=8, kinds=KINDS, refusals=(424,))) as clients:
            deadline = time.monotonic() + house.seconds
            while time.monotonic() < deadline:
                time.sleep(min(10.0, house.seconds))
                house.say(f"{served.logged(INJECTED)} failures, {clients.progress['answered']} answers")
        held = served.wait_until_idle()
        outcome.require(not held, f"still held: {held}")
        injected = served.logged(INJECTED)
        outcome.counts["passes that failed"] = injected
        outcome.counts["of them out of memory"] = served.logged(f"{INJECTED} no memory")
        outcome.counts["calls answered 424"] = clients.record.refused(424)
        outcome.counts["streams that ended in an error"] = clients.record.counts.get(
            "streams that ended in an error", 0
        )
        outcome.require(injected > 0, "no pass failed")
        outcome.require(served.client.get("/readyz").is_success, "it is not ready any more")
        judge_load(clients.record, outcome)
        judge_log(served, outcome, injected=2 * injected)
        served.kill()
        undisturbed = house.served(f"sqlite:{house.folder}/store.sqlite3")
        with undisturbed:
            judge_kept(house, undisturbed, clients.record, outcome)


def engine_ends(house: House, outcome: Outcome) -> None:
    """The device is lost under load: all who wait are told, later ones hear 503, a new start goes on."""
    told, starts = [], []
    with house.served(f"sqlite:{house.folder}/store.sqlite3", program=NEVER) as served:
        for number in range(house.rounds):
            fill(house, served, 1)
            plan = house.plan(served.url, clients=8, kinds=KINDS, refusals=(424, 503))
            with Load(plan) as clients:
                clients.wait_for(50)
                lost = time.monotonic()
                served.server.process.send_signal(signal.SIGUSR1)
                while served.client.get("/readyz").status_code != httpx.codes.SERVICE_UNAVAILABLE:
                    time.sleep(0.02)
                    if time.monotonic() - lost > 30:
                        raise RuntimeError("/readyz is 200 though the device is lost")
                told.append(time.monotonic() - lost)
                clients.wait_for(20)
            judge_load(clients.record, outcome)
            outcome.add("calls answered 424 or 503", clients.record.refused(424, 503))
            started = time.monotonic()
            served.kill()
            served.start()
            seconds_until_good(served, house.expected[0])
            starts.append(time.monotonic() - started)
            house.say(f"{number + 1} of {house.rounds} devices lost")
            judge_kept(house, served, clients.record, outcome)
    outcome.counts["devices lost"] = house.rounds
    tell_seconds(outcome, "lost to 503 of /readyz", told, most=MOST_TOLD_SECONDS)
    tell_seconds(outcome, "kill to first good answer of the next start", starts, most=MOST_START_SECONDS)
