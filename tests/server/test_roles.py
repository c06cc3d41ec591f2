"""One process compresses and another answers, over one store."""

from importlib.util import find_spec

import pytest

from tests.server.conftest import Serve

TEXT = "The lighthouse keeper wrote one line a day. " * 3


async def test_each_role_does_its_own_work_and_refuses_the_others(serve: Serve) -> None:
    asked = {"prompt": "On Monday", "max_tokens": 4, "temperature": 0}
    async with serve(role="compress") as compressing:
        made = (await compressing.post("/compress", json={"text": TEXT})).json()
        refused = [
            await compressing.post("/generate", json=asked),
            await compressing.post("/generate", json={**asked, "stream": True}),
            await compressing.post("/v1/completions", json={**asked, "stream": True}),
            await compressing.post("/score", json={"prompt": "On", "continuations": ["Monday"]}),
            await compressing.post("/compress", json={"text": TEXT, "measure": True}),
        ]
    async with serve(role="generate") as answering:
        assert (await answering.get("/readyz")).status_code == 200
        found = await answering.post("/compress", json={"text": TEXT})
        assert (found.status_code, found.json()["id"]) == (200, made["id"])
        answer = await answering.post("/generate", json={**asked, "summary_ids": [made["id"]]})
        assert answer.status_code == 200
        before = [{"text": "A text before it."}, {"summary_id": made["id"]}, {"text": "On Monday"}]
        refused += [
            await answering.post("/compress", json={"text": "another text"}),
            await answering.post("/generate", json={"context": before, "max_tokens": 4}),
        ]
    for each in refused:
        assert (each.status_code, each.json()["error"]["code"]) == (501, "not_served")
    async with serve() as both:
        assert (await both.post("/generate", json={**asked, "summary_ids": [made["id"]]})).json()["text"] == (
            answer.json()["text"]
        )


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
async def test_an_engine_that_is_not_installed_is_told(serve: Serve) -> None:
    with pytest.raises(ValueError, match=r"engine 'vllm' needs the extra vllm.*No module named 'vllm'"):
        async with serve(engine="vllm"):
            pass
