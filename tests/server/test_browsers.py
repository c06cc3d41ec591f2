"""What a page of another origin may not do from a visitor's browser, and what its owner may let it do."""

import httpx
import pytest

from server.settings import Settings
from tests.server.conftest import Serve

FORM = {"file": ("a.txt", b"A text of another page.")}
ELSEWHERE = "http://elsewhere.example"


def told(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


async def test_a_foreign_page_stores_nothing(client: httpx.AsyncClient) -> None:
    """A form needs no preflight: `fetch(…, {mode: "no-cors"})` sends it from anywhere."""
    before = (await client.get("/summaries")).json()["data"]
    for headers in ({"Origin": ELSEWHERE}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        assert told(await client.post("/compress", files=FORM, headers=headers)) == (403, "forbidden")
        assert told(await client.delete(f"/summaries/{'0' * 40}", headers=headers)) == (403, "forbidden")
    assert (await client.get("/summaries")).json()["data"] == before


@pytest.mark.parametrize(
    "headers", [{}, {"Origin": "http://server"}, {"Origin": "http://server", "Sec-Fetch-Site": "same-origin"}]
)
async def test_our_own_page_and_programs_do(client: httpx.AsyncClient, headers: dict[str, str]) -> None:
    assert (await client.post("/compress", files=FORM, headers=headers)).status_code in (200, 201)


async def test_a_rebound_name_is_refused(serve: Serve) -> None:
    async with serve(allowed_hosts="server,localhost") as client:
        assert (await client.get("/summaries")).status_code == 200
        assert (await client.get("/summaries", headers={"Host": "LOCALHOST:8000"})).status_code == 200
        for host in ("elsewhere.example", "elsewhere.example:8000", "127.0.0.1", "server.elsewhere.example", ""):
            assert told(await client.get("/summaries", headers={"Host": host})) == (403, "forbidden")


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/health"])
async def test_probes_come_by_address(serve: Serve, path: str) -> None:
    """An image's health check asks 127.0.0.1, Kubernetes the pod's address: with allowed_hosts both were 403."""
    async with serve(allowed_hosts="server") as client:
        assert (await client.get(path, headers={"Host": "10.1.2.3:8000"})).status_code == 200
        assert (await client.get("/info", headers={"Host": "10.1.2.3:8000"})).status_code == 403


def test_which_hosts_are_ours_follows_from_where_the_server_listens() -> None:
    assert Settings().hosts == {"localhost", "127.0.0.1", "::1"}
    assert Settings(host="0.0.0.0").hosts is None
    assert Settings(host="0.0.0.0", allowed_hosts="A.example, b").hosts == {"a.example", "b"}
    assert Settings(allowed_hosts="*").hosts is None


async def test_a_setting_lets_other_pages_call(serve: Serve) -> None:
    preflight = {"Origin": ELSEWHERE, "Access-Control-Request-Method": "POST"}
    asked = {"Access-Control-Request-Headers": "authorization,content-type"}
    async with serve(cors_origins=f"http://other.example, {ELSEWHERE}") as client:
        allowed = await client.options("/v1/chat/completions", headers=preflight | asked)
        assert (allowed.status_code, allowed.headers["Access-Control-Allow-Origin"]) == (200, ELSEWHERE)
        posted = await client.post("/compress", json={"text": "From there."}, headers={"Origin": ELSEWHERE})
        assert (posted.status_code, posted.headers["Access-Control-Allow-Origin"]) == (201, ELSEWHERE)
        refused = await client.post("/compress", json={"text": "a"}, headers={"Origin": "http://third.example"})
        assert told(refused) == (403, "forbidden")
    async with serve() as client:
        closed = await client.options("/v1/chat/completions", headers=preflight)
        assert "Access-Control-Allow-Origin" not in closed.headers


async def test_the_page_of_the_api_loads_nothing_from_elsewhere(client: httpx.AsyncClient) -> None:
    page = await client.get("/docs")
    assert page.status_code == 200
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "form-action 'none'" in policy
    assert "<script" not in page.text
    assert "POST /compress" in page.text
