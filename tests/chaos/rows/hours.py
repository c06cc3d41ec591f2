"""Mixed load for as long as one likes: what a server takes stays what it was."""

import subprocess
import time

from tests.chaos.documents import body_of
from tests.chaos.house import House, Load, Served, fill, judge_kept, judge_load, judge_log
from tests.chaos.outcome import Outcome, quantile
from tests.server.test_crash import PROGRAM

READINGS = 200
WARM_SHARE = 0.4  # of the time, after which caches are full and memory is to stay
MOST_GROWTH = 1.05


def hour(house: House, outcome: Outcome) -> None:
    """Everything that clients do, some of it cut off or wrong, on a file."""
    path = house.folder / "store.sqlite3"
    with house.served(f"sqlite:{path}") as served:
        fill(house, served, 1)
        _, files, _ = served.size()
        sizes = []
        with Load(house.plan(served.url)) as clients:
            started = told = time.monotonic()
            while (now := time.monotonic()) < started + house.seconds:
                sizes.append((now - started, *served.size()))
                if now > told + 60:
                    told = now
                    house.say(
                        f"{now - started:.0f} s, {clients.progress['answered']} answers, {sizes[-1][1] / 1e6:.0f} MB"
                    )
                time.sleep(house.seconds / READINGS)
        held = served.wait_until_idle()
        outcome.require(not held, f"still held: {held}")
        _judge_sizes(sizes, house.seconds, outcome)
        files_after = served.size()[1]
        outcome.counts["descriptors more at the end than at the start"] = files_after - files
        outcome.require(files_after <= files, f"{files_after} descriptors, {files} at the start")
        judge_load(clients.record, outcome)
        outcome.counts |= {
            "p50 of good answers, ms": 1000 * quantile(clients.record.all_seconds, 0.5),
            "p99, ms": 1000 * quantile(clients.record.all_seconds, 0.99),
            "slowest, ms": 1000 * max(clients.record.all_seconds, default=0.0),
        }
        judge_kept(house, served, clients.record, outcome)
        _judge_rows(house, served, clients.record.stored, outcome)
        judge_log(served, outcome)
    verified = subprocess.run(
        [*PROGRAM, "store", "verify", "--store", f"sqlite:{path}"], capture_output=True, text=True, check=False
    )
    outcome.counts["`store verify`"] = (verified.stdout or verified.stderr).strip().splitlines()[-1]
    outcome.require(verified.returncode == 0, f"store verify: {verified.stdout} {verified.stderr}")


def _judge_sizes(sizes: list[tuple[float, int, int, int]], seconds: float, outcome: Outcome) -> None:
    warm = [size for size in sizes if size[0] <= WARM_SHARE * seconds]
    for place, name, unit, growth in ((1, "MB", 1e6, MOST_GROWTH), (2, "descriptors", 1, 1.0), (3, "threads", 1, 1.0)):
        before, after = max(size[place] for size in warm), max(size[place] for size in sizes)
        outcome.counts[f"{name} at the start, most in {WARM_SHARE:.0%} of the time, most of all, at the end"] = (
            ", ".join(f"{number / unit:.0f}" for number in (sizes[0][place], before, after, sizes[-1][place]))
        )
        outcome.require(after <= growth * before + (place > 1), f"{name}: {after / unit:.0f} after {before / unit:.0f}")


def _judge_rows(house: House, served: Served, stored: list[int], outcome: Outcome) -> None:
    """The list has what clients know to be stored; what nobody knows of is put, so that it has nothing else."""
    for number in range(len(house.expected)):
        if number not in stored:
            served.client.post("/compress", json=body_of(number)).raise_for_status()
    listed, after = set(), None
    while True:
        params = {"limit": 100} | ({} if after is None else {"after": after})
        page = served.client.get("/summaries", params=params).raise_for_status().json()
        listed |= {one["id"] for one in page["data"]}
        if not page["has_more"]:
            break
        after = page["data"][-1]["id"]
    outcome.counts["listed"] = len(listed)
    outcome.require(listed == {one.id for one in house.expected}, f"{len(listed)} summaries are listed")
