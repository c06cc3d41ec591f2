"""Every answer has its request's id: the client's own where it is a sane one, else a new one."""

import logging
import re

import httpx
import pytest
from fastapi.responses import StreamingResponse

from server.http.envelope import add_error_handlers
from server.metrics import Metrics
from server.tally import Tally, counting, current
from tests.http.test_middleware import served

NEW = re.compile(r"[0-9a-f]{32}")


@pytest.fixture
def client() -> httpx.AsyncClient:
    app = served(Metrics())
    add_error_handlers(app)

    @app.get("/defect")
    async def defect() -> None:
        raise RuntimeError

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def parts():  # type: ignore[no-untyped-def]
            request = current()
            assert request is not None
            yield f"{request.request_id} "
            yield "end"

        return StreamingResponse(parts())

    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://server")


@pytest.mark.parametrize("given", ["a", "Root=1-67891233-abcdef012345678912345678", "x" * 128])
async def test_a_sane_id_is_kept(client: httpx.AsyncClient, given: str) -> None:
    assert (await client.get("/livez", headers={"X-Request-Id": given})).headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "x" * 129, "two words", 'a"b', "a\tb", "ü".encode("latin-1")])
async def test_another_is_replaced(client: httpx.AsyncClient, given: str | bytes) -> None:
    """It would forge fields of the log's lines, or fill them."""
    answered = await client.get("/livez", headers={"X-Request-Id": given})
    assert NEW.fullmatch(answered.headers["x-request-id"])


async def test_every_answer_has_an_id_of_its_own(client: httpx.AsyncClient) -> None:
    answers = [
        await client.get("/livez"),
        await client.get("/nothing/here"),
        await client.get("/size"),
        await client.post("/size", content=b"x" * 11),
        await client.get("/defect"),
        await client.get("/stream"),
    ]
    assert [answer.status_code for answer in answers] == [200, 404, 405, 413, 500, 200]
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert all(map(NEW.fullmatch, ids))
    assert len(set(ids)) == len(ids)
    assert answers[-1].text == f"{ids[-1]} end"


async def test_a_request_s_lines_have_its_id_and_no_others(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    said: list[str | None] = []

    def note(record: logging.LogRecord) -> bool:
        request = current()
        said.append(None if request is None else request.request_id)
        return True

    logger = logging.getLogger("server.http.middleware.request_log")
    logger.addFilter(note)
    try:
        with caplog.at_level(logging.INFO, logger="server"):
            await client.post("/size", headers={"X-Request-Id": "one"})
            with counting(Tally("outer")):
                await client.post("/size", headers={"X-Request-Id": "two"})
                logger.info("after")
            logger.info("last")
    finally:
        logger.removeFilter(note)
    assert said == ["one", "two", "outer", None]
