"""What vectors keep, measured: against the model's own losses, and what of it the API tells."""

from typing import Any

import httpx
import pytest
import torch

from model import AutoCompressor
from tests.server.conftest import Serve
from tests.tiny import tiny_anchored, tiny_compressor

DOCUMENT = "The keeper wrote one line a day: wind from the north, eleven ships, no fog. " * 12


async def compress(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    response = await client.post("/compress", json=body)
    assert response.status_code in (200, 201), response.text
    answer: dict[str, Any] = response.json()
    return answer


@pytest.fixture(params=["llama", "opt", "rmt", "anchored"])
async def measuring(serve: Serve, tmp_path: Any, request: pytest.FixtureRequest) -> Any:
    """A server whose window is shorter than the document; OPT numbers tokens alone, an RMT hands on one segment's."""
    if request.param == "anchored":
        made = tiny_anchored(max_positions=160)
    else:
        family = "opt" if request.param == "opt" else "llama"
        made = tiny_compressor(family, accumulate_summary=request.param != "rmt", max_positions=160)
    made.save_pretrained(tmp_path / "measured")
    async with serve(model=str(tmp_path / "measured")) as client:
        yield client


async def test_the_losses_are_the_models_own(measuring: httpx.AsyncClient) -> None:
    services = measuring.services  # type: ignore[attr-defined]
    model = AutoCompressor.from_pretrained(measuring.core.settings.model, dtype=torch.float32)
    told = (await compress(measuring, text=DOCUMENT, measure=True))["retention"]
    ids = torch.tensor(services.model.tokenise_document(DOCUMENT, is_start=True))
    scored, context = told["scored_tokens"], told["context_tokens"]
    window = min(services.model.max_sequence_tokens, services.model.positions.max_positions)
    assert scored == min(192, len(ids) // 4, window // 4)
    assert context == min(2048, len(ids) - scored - 1, window // 2)
    before, after = ids[-scored - context - 1 : -scored - 1], ids[-scored - 1 :]

    @torch.no_grad()
    def loss(tokens: torch.Tensor, soft_prompt: torch.Tensor | None = None) -> float:
        logprobs = model(tokens[None], soft_prompt=soft_prompt).logits[0, -scored - 1 : -1].log_softmax(dim=-1)
        return -float(logprobs.gather(1, tokens[-scored:, None]).mean())

    assert told["none"] == pytest.approx(loss(after), rel=1e-4)
    assert told["full"] == pytest.approx(loss(torch.cat([before, after])), rel=1e-4)
    vectors = model.compress(before[None], segment_lengths=model.segment_length)
    if not model.accumulate_summary:
        vectors = vectors[:, -model.summary_length :]
    assert told["summary"] == pytest.approx(loss(after, vectors), rel=1e-4)
    gained = told["none"] - told["full"]
    expected = (told["none"] - told["summary"]) / gained if gained > 0 else None
    assert told["share"] == (None if expected is None else pytest.approx(expected))


async def test_measured_again_of_what_is_stored_and_of_many(client: httpx.AsyncClient) -> None:
    plain = await compress(client, text=DOCUMENT)
    assert plain["retention"] is None
    measured = await compress(client, text=DOCUMENT, measure=True)
    assert measured["id"] == plain["id"]
    assert measured["cached_segments"] == plain["segments"]
    ids = client.services.model.tokenise_document(DOCUMENT, is_start=True)  # type: ignore[attr-defined]
    documents = [{"text": DOCUMENT, "measure": True}, {"text": "Short.", "measure": True}, {"token_ids": ids}]
    many = await compress(client, documents=documents)
    assert [each["retention"] for each in many["data"]] == [measured["retention"], None, None]
    assert (await compress(client, token_ids=ids, measure=True))["retention"] == measured["retention"]
    appended = await client.post(f"/summaries/{plain['id']}/append", json={"text": DOCUMENT, "measure": True})
    assert appended.json()["retention"]["scored_tokens"] == measured["retention"]["scored_tokens"]
    form = await client.post("/compress", files={"file": DOCUMENT.encode()}, data={"measure": "true"})
    assert form.json()["retention"] == measured["retention"]
    shares = [each for each in (measured, appended.json()) if each["retention"]["share"] is not None]
    count = 4 * (measured in shares) + len(shares) - (measured in shares)
    assert f"autocompressor_retention_ratio_count {count}.0" in (await client.get("/metrics")).text
    assert (await client.post("/compress", json={"text": "a", "measure": "yes"})).status_code == 422


async def test_segments_and_their_anchors(serve: Serve, tmp_path: Any) -> None:
    tiny_anchored(max_positions=512).save_pretrained(tmp_path / "anchored")
    text = "Größe and 東京: " + DOCUMENT
    async with serve(model=str(tmp_path / "anchored")) as client:
        stored = await compress(client, text=text, keep_text=True)
        path = f"/summaries/{stored['id']}/segments"
        whole = (await client.get(path, params={"limit": 100})).json()
        assert [each["segment"] for each in whole["data"]] == list(range(stored["segments"]))
        assert not whole["has_more"]
        assert sum(each["vectors"] for each in whole["data"]) == stored["vectors"]
        assert "".join(piece for each in whole["data"] for piece in each["pieces"]) == text
        for each in whole["data"]:
            assert len(each["pieces"]) == each["tokens"]
            assert each["anchors"] == sorted(set(each["anchors"]))
            assert sorted(each["ranks"]) == list(range(each["vectors"]))
            assert len(each["anchors"]) == each["vectors"]
        part = (await client.get(path, params={"limit": 2, "after": 1})).json()
        assert (part["data"], part["has_more"]) == (whole["data"][2:4], True)
        bare = await compress(client, text="x" + text)
        data = (await client.get(f"/summaries/{bare['id']}/segments")).json()["data"]
        assert {each["pieces"] for each in data} == {None}
        assert (await client.get("/summaries/none/segments")).status_code == 404
        assert (await client.get(path, params={"limit": 0})).status_code == 422


async def test_summary_tokens_stand_at_no_words(client: httpx.AsyncClient) -> None:
    stored = await compress(client, text=DOCUMENT, keep_text=True)
    first = (await client.get(f"/summaries/{stored['id']}/segments")).json()["data"][0]
    assert (first["anchors"], first["ranks"]) == (None, None)
    assert len(first["pieces"]) == first["tokens"]
