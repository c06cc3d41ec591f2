"""Files to import that Hypothesis draws: bytes, damaged exports, and safetensors that lie."""

import importlib.util
import json
import struct
from collections import Counter
from typing import Any

import httpx

from tests.chaos.house import House, fill, judge_log
from tests.chaos.outcome import Outcome, Skipped

DTYPES = ("F32", "F16", "BF16", "I32", "I64", "U8", "BOOL", "F64", "F8_E4M3", "x")


def imports(house: House, outcome: Outcome) -> None:
    """Each is refused with 4xx, or is the summary that was exported."""
    if importlib.util.find_spec("hypothesis") is None:
        raise Skipped("there is no hypothesis, which is of the extra ci")
    drawing = importlib.import_module("hypothesis")
    with house.served(f"sqlite:{house.folder}/store.sqlite3") as served:
        fill(house, served, 1)
        one, client = house.expected[0], served.client
        exported = client.get(f"/summaries/{one.id}", params={"format": "safetensors"}).content
        statuses: Counter[str] = Counter()

        @drawing.seed(house.seed)
        @drawing.settings(
            max_examples=house.rounds, deadline=None, database=None, suppress_health_check=list(drawing.HealthCheck)
        )
        @drawing.given(files(exported))
        def put(data: bytes) -> None:
            client.delete(f"/summaries/{one.id}")
            response = client.put(f"/summaries/{one.id}", content=data)
            statuses[str(response.status_code)] += 1
            assert response.status_code < 500, response.text
            if response.is_success:
                again = client.get(f"/summaries/{one.id}", params={"format": "safetensors"})
                assert one.is_like(again.content), "other vectors were taken"
            if statuses.total() % 500 == 0:
                house.say(f"{statuses.total()} files, {dict(statuses)}")

        try:
            put()
        except (AssertionError, httpx.TransportError) as error:
            outcome.faults.append(f"{error!r}: {getattr(error, '__notes__', '')}")
        outcome.counts |= {"files": statuses.total()} | {f"{status}": n for status, n in sorted(statuses.items())}
        judge_log(served, outcome)


def files(exported: bytes) -> Any:
    """A strategy for files, most of which begin as a right one."""
    st = importlib.import_module("hypothesis.strategies")
    length = int.from_bytes(exported[:8], "little")
    header, payload = json.loads(exported[8 : 8 + length]), exported[8 + length :]
    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
        max_leaves=10,
    )
    numbers = st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, length, length - 1, 2**20, 2**20 + 1, 2**63])
    sizes = st.lists(st.integers(-2, 2**63) | st.integers(0, 64), max_size=4)
    tensors = st.fixed_dictionaries(
        {},
        optional={"dtype": st.sampled_from(DTYPES) | values, "shape": sizes | values, "data_offsets": sizes | values},
    )

    def written(header: Any, payload: bytes) -> bytes:
        data = json.dumps(header).encode("utf-8", "surrogatepass")
        return struct.pack("<Q", len(data)) + data + payload

    @st.composite
    def damaged(draw: Any) -> bytes:
        """The right one, with some bytes in another's place."""
        start = draw(st.integers(0, len(exported)))
        return exported[:start] + draw(st.binary(max_size=16)) + exported[start + draw(st.integers(0, 16)) :]

    @st.composite
    def lying(draw: Any) -> bytes:
        """The right one, with another header."""
        own = json.loads(json.dumps(header))
        place = draw(st.sampled_from(["vectors", "__metadata__", "other", "note", "field"]))
        if place == "note":
            own["__metadata__"][draw(st.sampled_from(sorted(own["__metadata__"])))] = draw(values)
        elif place == "field":
            own["vectors"] |= draw(tensors)
        else:
            own[place] = draw(tensors | values)
        return written(own, draw(st.just(payload) | st.binary(max_size=64)))

    lengths = st.builds(lambda number: struct.pack("<Q", number) + exported[8:], numbers)
    headers = st.builds(written, values, st.binary(max_size=64))
    return st.just(exported) | st.binary(max_size=200) | damaged() | lying() | lengths | headers
