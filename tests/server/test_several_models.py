"""Several models in one server: each answers as it does alone, and knows what is another's; adapters share a base."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families
from safetensors.torch import load_file
from torch import nn

from model.bases.reference import BaseReference, weights_digest
from server.core import loading
from server.engine.torch.packed_linear import PackedLinear
from tests.server.conftest import Serve
from tests.tiny import TEXT, WEIGHT_SCALE, tiny_anchored, tiny_base, tiny_tokenizer

TIMES = {"id", "created", "timings", "receipt", "created_at", "completed_at"}  # of an answer, what differs each time


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `legal` and `notes`, two adapters, and the base that both are of."""
    folder = tmp_path_factory.mktemp("adapters")
    tiny_base("llama", max_positions=512).save_pretrained(folder / "base")
    tiny_tokenizer().save_pretrained(folder / "base")
    base = BaseReference(str(folder / "base"), None, weights_digest(folder / "base"))
    for seed, name in enumerate(("legal", "notes")):
        model, generator = tiny_anchored(max_positions=512), torch.Generator().manual_seed(seed)
        assert model.adapter is not None
        with torch.no_grad():
            for parameter in (model.bridge.states.weight, *model.adapter.parameters()):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * WEIGHT_SCALE)
        model.save_adapter(folder / name, base)
    return folder


@pytest.fixture
def others(adapters: Path) -> str:
    return f"legal={adapters}/legal, {adapters}/notes"


def without_times(answer: Any) -> Any:
    if isinstance(answer, dict):
        return {name: without_times(value) for name, value in answer.items() if name not in TIMES}
    return [without_times(each) for each in answer] if isinstance(answer, list) else answer


async def vectors(client: httpx.AsyncClient, model: str) -> str:
    """Of a document, compressed and exported to the bit."""
    made = (await client.post("/compress", json={"model": model, "text": TEXT})).json()
    assert made["model"] == model
    exported = await client.get(f"/summaries/{made['id']}", params={"model": model, "format": "prompt_embeds"})
    return exported.text


async def answers(client: httpx.AsyncClient, model: str) -> list[Any]:
    """What a model says on each route, with its probabilities, about a document that it compresses."""
    made = (await client.post("/compress", json={"model": model, "text": TEXT})).json()
    given = {"model": model, "temperature": 0}
    ids = {"summary_ids": [made["id"]]}
    messages = [{"role": "user", "content": "Who counts ships?"}]
    asked: dict[str, dict[str, Any]] = {
        "/generate": given | ids | {"prompt": "The keeper", "max_tokens": 12},
        "/score": {"model": model, "prompt": "The", "continuations": [" keeper", " fog"]} | ids,
        "/rerank": {"model": model, "query": "ships", "documents": ["a lamp", {"summary_id": made["id"]}]},
        "/v1/completions": given | {"prompt": "The keeper", "max_tokens": 6, "logprobs": 2},
        "/v1/chat/completions": given | {"messages": messages, "max_tokens": 6, "logprobs": True},
        "/v1/responses": given | {"input": "Who counts ships?", "max_output_tokens": 16},
        "/tokenize": {"model": model, "text": "The keeper"},
    }
    told = []
    for path, body in asked.items():
        answer = await client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        told.append(without_times(answer.json()))
    return told


async def test_each_answers_as_alone(serve: Serve, others: str, adapters: Path, tmp_path: Path) -> None:
    names = ("tiny", "legal", "notes")
    async with serve(other_models=others) as client:
        beside = await asyncio.gather(*(answers(client, name) for name in names))
        made = [await vectors(client, name) for name in names]
    assert len({str(told) for told in beside}) == len(set(made)) == 3
    for name, told, own in zip(names[:2], beside, made, strict=False):
        model = {} if name == "tiny" else {"model": str(adapters / name)}
        async with serve(**model, adapters="beside", store=f"sqlite:{tmp_path}/{name}.sqlite3") as client:
            assert await answers(client, name) == told
            assert await vectors(client, name) == own
    async with serve(model=str(adapters / "notes"), store=f"sqlite:{tmp_path}/merged.sqlite3") as client:
        assert await vectors(client, "notes") == made[2]


def parts(model: nn.Module) -> Iterator[tuple[object, int]]:
    """What a model's memory is, and the bytes of each."""
    for module in model.modules():
        own = [module._weight] if isinstance(module, PackedLinear) else []
        for tensor in (*module._parameters.values(), *module._buffers.values(), *own):
            if tensor is not None:
                is_packed = tensor.layout == torch._mkldnn  # type: ignore[attr-defined]  # which has no address
                yield id(tensor) if is_packed else tensor.untyped_storage().data_ptr(), tensor.nbytes


def load_all(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint's files."""
    return {name: weight for file in folder.rglob("*.safetensors") for name, weight in load_file(file).items()}


async def test_a_summary_of_a_model_beside_tells_which(serve: Serve, others: str) -> None:
    async with serve(other_models=others) as client:
        made = (await client.post("/compress", json={"model": "legal", "text": TEXT})).json()
        path, told = f"/summaries/{made['id']}", "the summary is of the model 'legal', and 'tiny' was asked"
        for method, route, body in (
            ("GET", path, None),
            ("GET", f"{path}/segments", None),
            ("POST", f"{path}/append", {"text": "More."}),
            ("POST", "/generate", {"summary_ids": [made["id"]], "prompt": "a"}),
            ("POST", "/compress", {"parent": made["id"], "text": "More."}),
        ):
            refused = await client.request(method, route, json=body)
            assert (refused.status_code, refused.json()["error"]["code"]) == (409, "model_mismatch")
            assert told in refused.json()["error"]["message"]
        exported = (await client.get(path, params={"model": "legal", "format": "safetensors"})).content
        taken = [await client.put(path, params={"model": name}, content=exported) for name in ("notes", "legal")]
        assert [each.status_code for each in taken] == [409, 200]
        appended = await client.post(f"{path}/append", json={"model": "legal", "text": "More."})
        form = await client.post("/compress", data={"model": "notes"}, files={"file": b"A lamp."})
        assert (appended.json()["model"], form.json()["model"]) == ("legal", "notes")
        listed = {
            name: [each["id"] for each in (await client.get("/summaries", params={"model": name})).json()["data"]]
            for name in ("legal", "notes", "tiny")
        }
        assert listed == {"legal": [appended.json()["id"], made["id"]], "notes": [form.json()["id"]], "tiny": []}
        assert (await client.get("/summaries", params={"model": "none"})).status_code == 404
        assert (await client.delete(path)).status_code == 200


async def test_all_are_told_of_and_one_whose_engine_ends(
    serve: Serve, others: str, adapters: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve(other_models=others, aliases="gpt-ours") as client:
        models = {name: client.core.models.named(name).decoder for name in ("tiny", "legal", "notes")}
        legal, notes = (dict(parts(models[name]._runner._packed.model)) for name in ("legal", "notes"))
        of_one = notes.keys() - legal.keys()  # its bridge and its adapter, and nothing of the base
        trained = [*load_all(adapters / "notes").values()]
        assert sorted(notes[part] for part in of_one) == sorted(4 * weight.numel() for weight in trained)

        listed = [each["id"] for each in (await client.get("/v1/models")).json()["data"]]
        assert listed == ["tiny", "legal", "notes", "gpt-ours"]
        infos = [(await client.get("/info", params=params)).json() for params in ({}, {"model": "legal"})]
        assert [info["model"]["id"] for info in infos] == ["tiny", "legal"]
        assert infos[0]["models"] == infos[1]["models"] == listed
        assert infos[0]["model"]["fingerprint"] != infos[1]["model"]["fingerprint"]
        families = text_string_to_metric_families((await client.get("/metrics")).text)
        (served,) = [family for family in families if family.name == "autocompressor_model_info"]
        assert {(each.labels["name"], each.value) for each in served.samples} == {(name, 1.0) for name in models}

        def fail() -> None:
            raise RuntimeError("a defect")

        monkeypatch.setattr(models["legal"]._loop._scheduler, "schedule", fail)
        asked = [
            await client.post("/generate", json={"model": name, "prompt": "The", "max_tokens": 2})
            for name in ("legal", "legal", "notes")
        ]
        assert asked[0].status_code in (424, 503)  # what waits fails; what comes when it has ended is refused
        assert [each.status_code for each in asked[1:]] == [503, 200]
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()["checks"]["engine"]) == (503, "not running: legal")


async def test_one_that_is_too_large_is_told(serve: Serve, others: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "device_bytes", lambda _: 200_000)  # room for one base and not for two
    async with serve():
        pass
    with pytest.raises(ValueError, match=r"with the base at .*/base the weights have 0\.0 GB"):
        async with serve(other_models=others):
            pass


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"other_models": "tiny={legal}"}, "two models would be served as 'tiny'"),
        ({"other_models": "{legal}", "aliases": "legal"}, "two models would be served as 'legal'"),
        ({"other_models": "a={legal},b={legal}"}, "'b' and 'a' are the same model"),
        ({"other_models": "a={legal}/none"}, "there is no directory .*legal/none"),
        ({"other_models": "a={base}/config.json"}, "config.json"),
    ],
)
async def test_what_cannot_be_served_is_told(serve: Serve, adapters: Path, settings: dict[str, str], told: str) -> None:
    places = {"legal": adapters / "legal", "base": adapters / "base"}
    with pytest.raises((ValueError, OSError), match=told):
        async with serve(**{name: value.format(**places) for name, value in settings.items()}):
            pass
