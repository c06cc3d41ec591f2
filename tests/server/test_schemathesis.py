"""Schemathesis draws requests from the OpenAPI document; what the server answers is in the document, and no 5xx."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.test_crash import Server, running

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is of the extra `ci`")
hypothesis = pytest.importorskip("hypothesis")
checks = pytest.importorskip("schemathesis.specs.openapi.checks")

CHECKS = (
    schemathesis.checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
)
# another test holds this file to what the application gives
schema = schemathesis.openapi.from_path(Path(__file__).parents[2] / "docs" / "openapi.json")


@pytest.fixture(scope="module")
def server(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("schemathesis")
    with running(checkpoint, f"sqlite:{folder}/store.sqlite3", folder) as opened:
        yield opened


@pytest.mark.slow
@schema.parametrize()
@hypothesis.settings(max_examples=20, deadline=None, derandomize=True, database=None)
def test_answers_are_as_documented(case: schemathesis.Case, server: Server) -> None:
    case.call_and_validate(base_url=str(server.client.base_url), checks=list(CHECKS))
