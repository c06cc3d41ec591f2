"""The program that does faults: its clients see what is wrong, and one of its rows runs, for a moment."""

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
import safetensors.numpy

from tests.chaos import __main__ as program
from tests.chaos import documents
from tests.chaos.documents import Expected
from tests.chaos.house import Record, judge_load
from tests.chaos.load import Clients, Plan
from tests.chaos.outcome import Outcome, as_table

RIGHT = np.arange(8, dtype=np.float32)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Of one client and two documents, the second of which is stored."""
    made = [Expected(str(number), "answer", base64.b64encode(RIGHT.tobytes()).decode()) for number in (0, 1)]
    documents.save(made, tmp_path / "expected.json")
    return Plan("http://server", str(tmp_path / "expected.json"), is_stored=True)


async def asked(plan: Plan, kind: str, answer: Callable[[httpx.Request], httpx.Response]) -> Clients:
    """What clients have seen after one call of a kind."""
    transport = httpx.MockTransport(answer)
    async with httpx.AsyncClient(base_url=plan.url, transport=transport) as client:
        clients = Clients(plan, client)
        await getattr(clients, kind)()
    return clients


def exported(vectors: np.ndarray) -> httpx.Response:
    return httpx.Response(200, content=safetensors.numpy.save({"vectors": vectors}))


async def test_clients_see_what_is_lost_wrong_or_without_an_answer(plan: Plan) -> None:
    good = await asked(plan, "export", lambda _: exported(RIGHT))
    assert (good.faults, good.statuses) == ([], {"export 200": 1})
    wrong = await asked(plan, "export", lambda _: exported(RIGHT + 0.01))
    assert wrong.faults == ["document 1 gives a wrong vectors"]
    for kind, response, said in (
        ("generate", httpx.Response(200, json={"text": "another"}), "a wrong answer"),
        ("generate", httpx.Response(404), "was acknowledged and is gone"),
        ("again", httpx.Response(201, json={"id": "1"}), "was acknowledged and is gone"),
        ("list", httpx.Response(500), "list was answered 500"),
        ("stream", httpx.Response(200, text='data: {"text": "a"}\n\n'), "has no end"),
    ):
        assert said in " ".join((await asked(plan, kind, lambda _, response=response: response)).faults), said
    refused = await asked(replace(plan, refusals=(503,)), "list", lambda _: httpx.Response(503))
    assert refused.faults == ["list was answered 503 without Retry-After"]

    def cut(_: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("reset")

    assert [one["kind"] for one in (await asked(plan, "generate", cut)).unanswered] == ["generate"]


def test_a_call_without_an_answer_is_a_fault_unless_the_server_was_down() -> None:
    cut = {"kind": "generate", "started": 10.0, "ended": 11.0, "error": "reset"}
    record = Record([], {"generate 200": 5}, {}, [], [cut], {})
    for down, num_faults in (((), 1), (((10.5, 20.0),), 0), (((11.5, 20.0),), 1)):
        outcome = Outcome("row", "done")
        judge_load(record, outcome, down=down)
        assert len(outcome.faults) == num_faults
        assert outcome.counts["without an answer"] == num_faults
    outcome.seconds = 1.4
    assert as_table([outcome]).splitlines()[-1].endswith("| 1 faults | 1 |")


def test_an_unknown_row_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        program.main(["kill-8"])
    assert "there is no row 'kill-8'; there are: kill-9-file, " in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_row_holds_for_a_moment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = tmp_path / "figures.json"
    asked = ["kill-9-file", "--rounds", "1", "--documents", "20", "--json", str(figures)]
    assert program.main(asked) == 0
    (row,) = json.loads(figures.read_text())["rows"]
    assert row["counts"]["kills"] == 1
    assert row["counts"]["answers"] > 20
    assert "| `kill-9-file` |" in capsys.readouterr().out
