"""What is stored, damaged; and the disk that it is on, full."""

import random
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import redis

from tests.chaos.documents import GREEDY, body_of
from tests.chaos.house import (
    House,
    Load,
    Served,
    fill,
    judge_kept,
    judge_load,
    judge_log,
    seconds_until_good,
    seconds_until_written,
    tell_seconds,
)
from tests.chaos.outcome import Outcome, Skipped
from tests.redis_server import running_redis
from tests.redis_topologies import until
from tests.store.test_full_disk import fill as fill_disk

DISK = "24m"  # the reserve of the store is 8 MiB of it
MOST_RECOVERY_SECONDS = 5.0
WITHOUT_MEMORY = ("--memory-tier-bytes", "0", "--prefix-cache-bytes", "0")  # which would answer for what is damaged
KINDS = {"compress": 6, "again": 2, "generate": 4, "stream": 1, "export": 2, "delete": 2}

Flip = Callable[[str], str | None]


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of `DISK`."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "none", folder], check=False)
    if mounted.returncode:
        raise Skipped("no file system can be mounted here: that takes root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def disk_full(house: House, outcome: Outcome) -> None:
    """Another program takes all that is left, and gives it back."""
    seconds, told = [], 0
    with small_disk(house.folder / "disk") as disk, house.served(f"sqlite:{disk}/store.sqlite3") as served:
        fill(house, served, 1)
        with Load(house.plan(served.url, kinds=KINDS, refusals=(507,))) as clients:
            for number in range(house.rounds):
                clients.wait_for(50)
                fill_disk(disk)
                until(lambda: _is_refused(served), seconds=30, what="the disk is full")
                told += served.client.get("/readyz").json()["checks"]["store"] == "full"
                seconds_until_good(served, house.expected[0], most=2)
                clients.wait_for(50)
                (disk / "other").unlink()
                started = time.monotonic()
                seconds_until_written(served, number)
                seconds.append(time.monotonic() - started)
                house.say(f"{number + 1} of {house.rounds} times full, back after {seconds[-1]:.2f} s")
        outcome.counts["times full"] = house.rounds
        outcome.counts["/readyz said so"] = told
        outcome.require(told > 0, "/readyz never said that the store is full")  # clients who delete make room
        judge_load(clients.record, outcome)
        outcome.counts["refused, 507"] = clients.record.refused(507)
        outcome.require(clients.record.refused(507) > 0, "no client was refused")
        judge_kept(house, served, clients.record, outcome)
        judge_log(served, outcome)
    tell_seconds(outcome, "room again to first good write", seconds, most=MOST_RECOVERY_SECONDS)


def _is_refused(served: Served) -> bool:
    return served.client.post("/compress", json={"text": f"fuller {time.monotonic()} " * 20}).status_code == 507


def bit_flips_file(house: House, outcome: Outcome) -> None:
    path = house.folder / "store.sqlite3"
    draw = random.Random(house.seed)

    def flip(summary_id: str) -> str | None:
        with closing(sqlite3.connect(path, timeout=10)) as connection, connection:
            (entry,) = connection.execute("SELECT id FROM entry WHERE key = ?", [f"manifest:{summary_id}"]).fetchone()
            rows = connection.execute("SELECT referenced FROM reference WHERE referrer = ?", [entry]).fetchall()
            chosen = draw.choice([entry, *(number for (number,) in rows)])
            (key,) = connection.execute("SELECT key FROM entry WHERE id = ?", [chosen]).fetchone()
            (data,) = connection.execute("SELECT data FROM content WHERE id = ?", [chosen]).fetchone()
            place = draw.randrange(8 * len(data))
            changed = bytearray(data)
            changed[place // 8] ^= 1 << place % 8
            connection.execute("UPDATE content SET data = ? WHERE id = ?", [bytes(changed), chosen])
        return str(key)

    _flipped(house, outcome, f"sqlite:{path}", flip)


def bit_flips_redis(house: House, outcome: Outcome) -> None:
    draw = random.Random(house.seed)
    with running_redis(house.folder) as url, redis.Redis.from_url(url) as store:

        def flip(summary_id: str) -> str | None:
            (manifest,) = store.scan_iter(f"*value:manifest:{summary_id}", count=10_000)
            space = manifest.decode().removesuffix(f"value:manifest:{summary_id}")
            named = sorted(store.smembers(f"{space}references:manifest:{summary_id}"))
            key = draw.choice([f"manifest:{summary_id}", *(name.decode() for name in named)])
            place = draw.randrange(8 * store.strlen(f"{space}value:{key}"))
            store.setbit(f"{space}value:{key}", place, 1 - store.getbit(f"{space}value:{key}", place))
            return key

        _flipped(house, outcome, url, flip)


def _flipped(house: House, outcome: Outcome, store: str, flip: Flip) -> None:
    """Flip one bit of a document's records, read it in three ways, send it again, and read it again."""
    draw = random.Random(house.seed)
    flips: Counter[str] = Counter()
    statuses: Counter[str] = Counter()
    with ExitStack() as opened:
        served = opened.enter_context(house.served(store, *WITHOUT_MEMORY))
        fill(house, served)
        for count in range(house.rounds):
            number = draw.randrange(len(house.expected))
            one = house.expected[number]
            key = flip(one.id)
            flips[str(key).partition(":")[0]] += 1
            for status in _read(house, served, number, outcome):
                statuses[status] += 1
            made = served.client.post("/compress", json=body_of(number))
            outcome.require(made.is_success and made.json()["id"] == one.id, f"{key} damaged: {made.text[:200]}")
            healed = _read(house, served, number, outcome)
            outcome.require(set(healed) == {"right"}, f"{key} damaged, the document sent again: {healed}")
            if (count + 1) % 100 == 0:
                house.say(f"{count + 1} of {house.rounds} bits, {dict(statuses)}")
        outcome.counts["bits flipped"] = house.rounds
        outcome.counts |= {f"in a {kind}": number for kind, number in sorted(flips.items())}
        outcome.counts |= {f"reads {what}": number for what, number in sorted(statuses.items())}
        outcome.require(
            not any(status.startswith("refused, 5") for status in statuses), f"reads of damaged records: {statuses}"
        )
        outcome.counts["told by metrics"] = int(served.gauge("store_damaged_records_total"))
        judge_log(served, outcome)


def _read(house: House, served: Served, number: int, outcome: Outcome) -> list[str]:
    """What an export, a question and the list of segments say of a document."""
    one, client = house.expected[number], served.client
    said = []
    exported = client.get(f"/summaries/{one.id}", params={"format": "safetensors"})
    answer = client.post("/generate", json={"summary_ids": [one.id], **GREEDY})
    segments = client.get(f"/summaries/{one.id}/segments")
    if segments.is_success and segments.json()["data"][0]["pieces"] is not None:
        shown = "".join(piece for each in segments.json()["data"] for piece in each["pieces"])
        is_text_right = body_of(number)["text"] in shown
    else:
        is_text_right = True
    for response, is_right in (
        (exported, lambda: one.is_like(exported.content)),
        (answer, lambda: answer.json()["text"] == one.answer),
        (segments, lambda: is_text_right),
    ):
        if not response.is_success:
            said.append(f"refused, {response.status_code}")
        elif is_right():
            said.append("right")
        else:
            said.append("WRONG")
            outcome.faults.append(f"document {number} damaged: a wrong answer to {response.request.url}")
    return said
