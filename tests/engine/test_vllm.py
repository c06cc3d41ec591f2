"""vLLM and the built-in engine, side by side: vectors of one are the other's, and what vLLM cannot do is refused."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.subject import make_model
from benchmarks.vllm_peer import Vllm
from model import AutoCompressor
from model.adapter import Adapter
from model.compressors import SegmentSummary
from model.config import SummaryConfig
from server.core.build import open_core
from server.core.documents.document import Document
from server.core.tenant import Tenant
from server.engine.protocol import Engine, Prompt
from server.errors import NotServed
from server.settings import Settings
from tests.engine.test_engine import TOLERANCE, compressed, document, token_ids
from tests.engine.test_engine_contract import (
    ARGUMENTS,
    ASKED,
    GREEDY,
    NO_VLLM,
    built,
    generated,
    tiny_checkpoint,
    tiny_llama,
)
from tests.tiny import WEIGHT_SCALE, tiny_compressor, tiny_tokenizer

pytest.importorskip("vllm", reason=NO_VLLM)
pytestmark = pytest.mark.filterwarnings("default")  # vLLM's own warnings
SEGMENTS = [document(16, seed=1), document(16, seed=2), document(5, seed=3)]


@asynccontextmanager
async def running(name: str, checkpoint: Path, **settings: Any) -> AsyncIterator[Engine]:
    engine = built(name, checkpoint, **settings)
    engine.start()
    try:
        yield engine
    finally:
        await asyncio.to_thread(engine.stop)


@torch.no_grad()
def anchored_checkpoint(directory: Path, layers: tuple[int, ...]) -> Path:
    """Anchored vectors of these layers' states on the contract's Llama, with a reading adapter; all of it random."""
    base = tiny_llama()
    config = SummaryConfig(4, True, 16, compressor="anchored", reads_alone=True, layers=layers)
    model = AutoCompressor(base, config, tiny_tokenizer())
    model.adapter = Adapter.put_into(base, ("q_proj", "down_proj"), rank=2, alpha=4)
    generator = torch.Generator().manual_seed(1)
    for parameter in (model.bridge.states.weight, *model.adapter.parameters()):
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * WEIGHT_SCALE)
    model.save_pretrained(directory)
    return directory


async def summaries(engine: Engine) -> list[SegmentSummary]:
    async with aclosing(engine.compress(SEGMENTS)) as made:
        return [summary async for summary in made]


async def test_anchored_vectors_and_their_reader_agree(tmp_path: Path) -> None:
    """Written without the adapter, of states of a base cut in its middle and of the whole one, and read with it, as
    vLLM's LoRA; vectors of either engine are read by the other.
    """
    checkpoint = anchored_checkpoint(tmp_path / "anchored", (1, 2))
    async with running("torch", checkpoint) as built_in, running("vllm", checkpoint) as vllm:
        ours, theirs = await summaries(built_in), await summaries(vllm)
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one.vectors, other.vectors, **TOLERANCE)
            assert torch.equal(one.ranks, other.ranks)
            assert torch.equal(one.anchors, other.anchors)
        for made in (ours, theirs):
            prompt = Prompt(torch.cat([summary.vectors for summary in made]), tuple(document(7, seed=4)))
            answers = [await generated(engine, prompt) for engine in (built_in, vllm)]
            assert token_ids(answers[0]) == token_ids(answers[1])
            scores = [await engine.score(prompt, [[5, 6, 7]]) for engine in (built_in, vllm)]
            assert scores[0][0].logprobs == pytest.approx(scores[1][0].logprobs, abs=1e-4)
        bare = [token_ids(await generated(engine, Prompt(None, prompt.token_ids))) for engine in (built_in, vllm)]
        assert bare[0] == bare[1] != token_ids(answers[0])


async def test_agrees_in_bfloat16(tmp_path: Path) -> None:
    """Of one segment: this random model makes a tenth of what rounding does to it in three, whatever rounds."""
    checkpoint = tiny_checkpoint(tmp_path / "tiny")
    async with (
        running("torch", checkpoint, dtype="bfloat16") as built_in,
        running("vllm", checkpoint, dtype="bfloat16") as vllm,
    ):
        ours, theirs = [await compressed(engine, SEGMENTS[:1]) for engine in (built_in, vllm)]
        assert ours.dtype == theirs.dtype == torch.bfloat16
        assert float((ours - theirs).float().norm()) <= 0.05 * float(ours.float().norm())
        prompt = Prompt(ours, tuple(document(7, seed=4)))
        scores = [(await engine.score(prompt, [[5, 6, 7]]))[0].total for engine in (built_in, vllm)]
        assert scores[0] == pytest.approx(scores[1], rel=0.05)


async def test_a_summary_that_one_process_made_is_used_by_another(tmp_path: Path) -> None:
    """The built-in engine compresses alone and vLLM answers alone, over one store: ids are the same."""
    checkpoint = tiny_checkpoint(tmp_path / "tiny")
    shared = {"model": str(checkpoint), "dtype": "float32", "store": f"sqlite:{tmp_path}/store.sqlite3"}
    shared |= {"max_running_sequences": 4, "max_batch_tokens": 64}
    text = Document(tenant=Tenant(), text="The lighthouse keeper wrote one line a day. " * 2)
    async with open_core(Settings(role="compress", **shared)) as core:
        compress = core.models.default
        made = (await compress.intake.one(text)).summary
        with pytest.raises(NotServed, match="role is 'compress'"):
            await anext(compress.decoder.generate(ASKED[0], GREEDY))
    async with open_core(Settings(role="generate", engine="vllm", engine_args=ARGUMENTS, **shared)) as core:
        answering = core.models.default
        assert answering.model.fingerprint == compress.model.fingerprint
        again = await answering.intake.one(text)
        assert (again.summary.id, again.cached_segments) == (made.id, len(made.manifest.segments))
        with pytest.raises(NotServed, match="role is 'generate'"):
            await answering.intake.one(replace(text, text="Another text"))
        assert len(await generated(answering.decoder, ASKED[1])) == 12


def test_a_model_with_positions_of_its_own_is_refused(tmp_path: Path) -> None:
    tiny_compressor("opt").save_pretrained(tmp_path / "tiny")
    with pytest.raises(ValueError, match="rotary positions, which opt has not"):
        built("vllm", tmp_path / "tiny")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"engine_args": "tensor_paralel_size=2"}, "'tensor_paralel_size', which this vLLM does not know"),
        ({"device": "mps"}, "device is 'mps'"),
    ],
)
def test_a_setting_that_it_cannot_serve_is_refused(settings: dict[str, str], told: str, tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(tmp_path / "tiny")
    with pytest.raises(ValueError, match=told):
        built("vllm", checkpoint, **settings)


async def test_an_argument_that_vllm_refuses_is_told(tmp_path: Path) -> None:
    engine = built("vllm", tiny_checkpoint(tmp_path / "tiny"), engine_args="block_size=7,enforce_eager=true")
    with pytest.raises(ValueError, match="vLLM does not start"):
        engine.start()


def test_the_bench_runs_it_and_vllm_itself(tmp_path: Path) -> None:
    """What `make bench VLLM=` adds to its rows, each in processes of its own."""
    model = tmp_path / "model"
    make_model(
        model, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2
    )
    vectors = [torch.randn(5, 64, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    with Vllm(Path(sys.executable), model, tmp_path, dtype="float32") as plain:
        plain.prepare("vectors", vectors)
        assert plain.run("vectors", max_tokens=4) > 0
    with Vllm(Path(sys.executable), model, tmp_path, dtype="float32", kind="ours") as ours:
        ours.prepare("prompts", [(each, document(7)) for each in vectors])
        ours.prepare("documents", [SEGMENTS, SEGMENTS[:1]])
        assert ours.run("prompts", max_tokens=4, only=[0, 2]) > 0
        assert ours.run("documents", max_tokens=None) > 0
