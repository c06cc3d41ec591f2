"""Callers that try others' ids on every route, at random: `python -m tests.strangers --calls 100000`.

Each of the tenants has documents, responses, compaction items, jobs and files of its own, whose texts and metadata
hold a word of its own. A call is of one tenant with an id of another's. It is a fault where it is answered with 2xx,
where the answer holds the other's word, and where it differs from the answer to an id that nobody has. Some calls are
of a tenant's own ids, which have to succeed.
"""

import argparse
import asyncio
import random
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from server.core.build import open_core
from server.http.app import create_app
from server.settings import Settings
from tests.server.keys import bearer, entry
from tests.tiny import tiny_compressor

NAMES = ("reader", "writer", "boss")
OWN_SHARE = 0.05
KEYS = "".join(entry(name) for name in NAMES)


@dataclass
class Tenant:
    """What one has: ids, sealed items, exported files; `word` stands in all of its texts."""

    name: str
    word: str
    text: str = ""
    summary: str = ""
    response: str = ""
    sealed: str = ""
    carried: str = ""
    job: str = ""
    file: bytes = b""


@dataclass
class Call:
    """A request that names what is a tenant's; `can` tells whether the tenant's own succeeds."""

    method: str
    path: str
    json: Any = None
    content: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)


Make = Callable[[Tenant, str], Call]


def _post(path: str, **body: Any) -> Call:
    return Call("POST", path, body)


def _job(one: Tenant) -> Call:
    call = _post("/jobs/compress", text=f"A job of {one.word}.", metadata={"secret": one.word})
    call.headers["Idempotency-Key"] = "the same"
    return call


def _responses(path: str, model: str, **body: Any) -> Call:
    return _post(path, model=model, **body)


# by what they name; a call is made with a tenant's own, with another's, or with what nobody has
SUMMARIES: dict[str, Make] = {
    "describe": lambda one, _: Call("GET", f"/summaries/{one.summary}"),
    "export": lambda one, _: Call("GET", f"/summaries/{one.summary}?format=safetensors"),
    "prompt_embeds": lambda one, _: Call("GET", f"/summaries/{one.summary}?format=prompt_embeds"),
    "segments": lambda one, _: Call("GET", f"/summaries/{one.summary}/segments"),
    "list_after": lambda one, _: Call("GET", f"/summaries?after={one.summary}"),
    "append": lambda one, _: _post(f"/summaries/{one.summary}/append", text="And more."),
    "parent": lambda one, _: _post("/compress", text="And more.", parent=one.summary),
    "parents": lambda one, _: _post("/compress", documents=[{"text": "And more.", "parent": one.summary}]),
    "generate": lambda one, _: _post("/generate", prompt="Who?", summary_ids=[one.summary], max_tokens=1),
    "context": lambda one, _: _post(
        "/generate", context=[{"text": "A"}, {"summary_id": one.summary}, {"text": "Who?"}], max_tokens=1
    ),
    "expand": lambda one, _: _post(
        "/generate", prompt="The keeper", summary_ids=[one.summary], max_tokens=1, expand={"segments": 1}
    ),
    "score": lambda one, _: _post("/score", prompt="Who?", summary_ids=[one.summary], continuations=["A"]),
    "rerank": lambda one, _: _post(
        "/rerank", query="Who?", documents=[{"summary_id": one.summary}, "A text."], return_documents=True
    ),
    "completion": lambda one, model: _post(
        "/v1/completions", model=model, max_tokens=1, prompt=[{"type": "summary", "id": one.summary}]
    ),
    "chat": lambda one, model: _post(
        "/v1/chat/completions",
        model=model,
        max_tokens=1,
        messages=[{"role": "user", "content": [{"type": "summary", "id": one.summary}, {"type": "text", "text": "?"}]}],
    ),
}
RESPONSES: dict[str, Make] = {
    "get_response": lambda one, _: Call("GET", f"/v1/responses/{one.response}"),
    "input_items": lambda one, _: Call("GET", f"/v1/responses/{one.response}/input_items"),
    "go_on": lambda one, model: _responses(
        "/v1/responses", model, input="Who?", previous_response_id=one.response, max_output_tokens=16, store=False
    ),
    "count": lambda one, model: _responses(
        "/v1/responses/input_tokens", model, input="Who?", previous_response_id=one.response
    ),
    "compact": lambda one, model: _responses("/v1/responses/compact", model, previous_response_id=one.response),
}
SEALED: dict[str, Make] = {
    f"{name}_{place}": make
    for place in ("sealed", "carried")
    for name, make in {
        "item": lambda one, model, place=place: _responses(
            "/v1/responses",
            model,
            input=[
                {"type": "compaction", "encrypted_content": getattr(one, place)},
                {"role": "user", "content": "Who?"},
            ],
            max_output_tokens=16,
            store=False,
        ),
        "item_context": lambda one, _, place=place: _post(
            "/generate",
            context=[{"encrypted_content": getattr(one, place)}, {"text": "Who?"}],
            max_tokens=1,
        ),
        "item_rerank": lambda one, _, place=place: _post(
            "/rerank", query="Who?", documents=[{"encrypted_content": getattr(one, place)}]
        ),
    }.items()
}
JOBS: dict[str, Make] = {"job": lambda one, _: Call("GET", f"/jobs/{one.job}")}
FILES: dict[str, Make] = {
    "import": lambda one, _: Call("PUT", f"/summaries/{one.summary}", content=one.file),
}
# these end what they name where it is the caller's own, so they are tried on others' alone
ENDING: dict[str, Make] = {
    "delete": lambda one, _: Call("DELETE", f"/summaries/{one.summary}"),
    "delete_response": lambda one, _: Call("DELETE", f"/v1/responses/{one.response}"),
    "cancel_response": lambda one, _: Call("POST", f"/v1/responses/{one.response}/cancel"),
    "cancel_job": lambda one, _: Call("DELETE", f"/jobs/{one.job}"),
}
LASTING = SUMMARIES | RESPONSES | SEALED | JOBS | FILES
# what nobody has is no sealed item and no file, so others' cannot be told from that
COMPARED = SUMMARIES | RESPONSES | JOBS | ENDING


class Strangers:
    """A server's tenants; `faults` has what one saw of another, `tried` how often each call was made."""

    def __init__(self, client: httpx.AsyncClient, model: str, seed: int) -> None:
        self._client = client
        self._model = model
        self._random = random.Random(seed)
        self.tenants = [Tenant(name, f"zq{name}qz") for name in NAMES]
        self.tried: Counter[str] = Counter()
        self.faults: list[str] = []

    async def settle(self) -> None:
        """Give each tenant what is its own."""
        for one in self.tenants:
            one.text = f"The {one.word} wrote one line a day: wind from the north, eleven ships, no fog. " * 3
            metadata = {"secret": one.word}
            made = await self._done(one, _post("/compress", text=one.text, keep_text=True, metadata=metadata))
            one.summary = made["id"]
            one.file = (await self._send(one, LASTING["export"](one, self._model))).content
            said = [{"role": "user", "content": one.text}, {"role": "assistant", "content": one.word}]
            response = await self._done(
                one, _responses("/v1/responses", self._model, input=one.text, max_output_tokens=16)
            )
            one.response = response["id"]
            for place, is_stored in (("sealed", True), ("carried", False)):
                call = _responses("/v1/responses/compact", self._model, input=said, store=is_stored)
                setattr(one, place, (await self._done(one, call))["output"][-1]["encrypted_content"])
            one.job = (await self._done(one, _job(one)))["id"]
            while (await self._send(one, LASTING["job"](one, self._model))).json()["status"] != "done":
                await asyncio.sleep(0.01)

    async def wander(self, num_calls: int) -> None:
        """So many calls, of all tenants at the same time: one of each."""
        shares = [len(range(number, num_calls, len(self.tenants))) for number in range(len(self.tenants))]
        await asyncio.gather(*(self._wander(one, share) for one, share in zip(self.tenants, shares, strict=True)))
        for one in self.tenants:
            for name in LASTING:
                await self._own(one, name)

    async def _wander(self, one: Tenant, num_calls: int) -> None:
        others = [each for each in self.tenants if each is not one]
        for _ in range(num_calls):
            other = self._random.choice(others)
            if self._random.random() < OWN_SHARE:
                await self._own(one)
            elif self._random.random() < 0.1:
                await self._same_text(one, other)
            elif self._random.random() < 0.02:
                await self._same_key(one, other)
            else:
                await self._foreign(one, other)

    async def _own(self, one: Tenant, name: str | None = None) -> None:
        name = name or self._random.choice(list(LASTING))
        answer = await self._send(one, LASTING[name](one, self._model))
        self.tried[f"own {name}"] += 1
        if not answer.is_success:
            self.faults.append(f"{one.name} has lost its own {name}: {answer.status_code} {answer.text[:200]}")

    async def _foreign(self, one: Tenant, other: Tenant) -> None:
        name = self._random.choice([*LASTING, *ENDING])
        make = (LASTING | ENDING)[name]
        answer = await self._send(one, make(other, self._model))
        self.tried[name] += 1
        if answer.is_success or other.word in answer.text:
            self.faults.append(f"{one.name} sees {other.name}'s by {name}: {answer.status_code} {answer.text[:200]}")
        if name in COMPARED:
            absent = self._absent(other)
            unknown = await self._send(one, make(absent, self._model))
            if _shown(answer, other) != _shown(unknown, absent):
                self.faults.append(f"{one.name} tells {other.name}'s from nobody's by {name}: {answer.text[:200]}")

    async def _same_text(self, one: Tenant, other: Tenant) -> None:
        """The other's text, under its metadata's name and its Idempotency-Key: nothing of it is there already."""
        self.tried["same text"] += 1
        call = _post("/compress", text=other.text)
        first = await self._send(one, call)
        made = first.json()
        if first.status_code != 201 or made["cached_segments"] or made["metadata"] or made["id"] == other.summary:
            self.faults.append(
                f"{one.name} learns that {other.name} has a text: {first.status_code} {first.text[:200]}"
            )
        await self._send(one, Call("DELETE", f"/summaries/{made['id']}"))
        listed = (await self._send(one, Call("GET", "/summaries"))).text
        if any(each.summary in listed or each.word in listed for each in self.tenants if each is not one):
            self.faults.append(f"{one.name} has another's in its list")

    async def _same_key(self, one: Tenant, other: Tenant) -> None:
        """The other's job under the Idempotency-Key that both have used: it is one's own that is known."""
        self.tried["same key"] += 1
        answer = await self._send(one, _job(other))
        if answer.status_code != 422 or other.job in answer.text:
            self.faults.append(f"{one.name} reaches {other.name}'s job by its key: {answer.text[:200]}")
        mine = await self._send(one, _job(one))
        if mine.status_code != 202 or mine.json()["id"] != one.job:
            self.faults.append(f"{one.name} has lost its job's key: {mine.status_code} {mine.text[:200]}")

    def _absent(self, like: Tenant) -> Tenant:
        """One that has nothing, of the form of what another has."""
        digits = "".join(self._random.choices("0123456789abcdef", k=40))
        return Tenant(
            "nobody",
            "",
            summary=digits,
            response=f"resp_{digits[: len(like.response) - 5]}",
            job=f"job-{digits[: len(like.job) - 4]}",
        )

    async def _done(self, one: Tenant, call: Call) -> dict[str, Any]:
        answer = await self._send(one, call)
        assert answer.is_success, answer.text
        done: dict[str, Any] = answer.json()
        return done

    async def _send(self, one: Tenant, call: Call) -> httpx.Response:
        headers = bearer(one.name) | call.headers
        return await self._client.request(
            call.method, call.path, json=call.json, content=call.content, headers=headers, timeout=60
        )


def _shown(answer: httpx.Response, whose: Tenant) -> tuple[int, str, list[str]]:
    """What an answer tells, without the ids that the request named."""
    text = answer.text
    for named in (whose.summary, whose.response, whose.job):
        text = text.replace(named, "ID")
    names = sorted(name for name in answer.headers if not name.startswith("x-request"))
    return answer.status_code, text, names


@asynccontextmanager
async def strangers(store: str, checkpoint: Path, seed: int) -> AsyncIterator[Strangers]:
    """Tenants of a server in this process."""
    settings = Settings(model=str(checkpoint), store=store, dtype="float32", allowed_hosts="server", api_keys=KEYS)
    async with open_core(settings) as core:
        transport = httpx.ASGITransport(create_app(core), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            own = Strangers(client, core.models.default.model.name, seed)
            await own.settle()
            yield own


async def _main(num_calls: int, seed: int, store: str | None) -> int:
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "tiny"
        tiny_compressor(max_positions=512).save_pretrained(checkpoint)
        async with strangers(store or f"sqlite:{folder}/store.sqlite3", checkpoint, seed) as own:
            await own.wander(num_calls)
    for name, count in sorted(own.tried.items()):
        print(f"{count:8,}  {name}")
    print(f"{own.tried.total():8,}  calls in all, {len(own.faults)} that saw another's or lost their own")
    for fault in own.faults[:20]:
        print(fault)
    return 1 if own.faults else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--store", help="redis://…; without, a file that is removed at the end")
    given = parser.parse_args()
    raise SystemExit(asyncio.run(_main(given.calls, given.seed, given.store)))
