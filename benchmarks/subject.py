"""The side that is ours: a random model of 30M parameters, and the server's parts around it in this process."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from benchmarks.machine import ROOT
from model import AutoCompressor
from server.core.build import connect, engines_of
from server.core.core import Core
from server.core.corpora.corpus import Corpora
from server.core.documents.document import Document
from server.core.loading import load_models
from server.core.prompts.plan import Call
from server.core.services import Services
from server.engine.protocol import Prompt, SamplingParams
from server.engine.torch.cores import in_a_thread_that_ends, one_core_elsewhere
from server.metrics import Metrics
from server.settings import Settings
from server.store import open_store

SEGMENT_LENGTH, SUMMARY_LENGTH = 1536, 50
ROW_TOKENS = 1024  # of the KV pool; the model has more positions than any generation here needs
VOCABULARY = 8192


def make_model(directory: Path, **shape: int) -> None:
    """Write the AutoCompressor that is measured: Llama-shaped, weights drawn with seed 0, in bfloat16.

    Args: shape: instead of that of the 30M parameters that are compared.
    """
    measured = {
        "hidden_size": 512,
        "intermediate_size": 1408,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
    }
    config = LlamaConfig(
        vocab_size=VOCABULARY, max_position_embeddings=8192, tie_word_embeddings=True, **measured | shape
    )
    torch.manual_seed(0)
    base = LlamaForCausalLM(config).to(torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "model" / "paper")
    model = AutoCompressor.from_base(base, SUMMARY_LENGTH, segment_length=SEGMENT_LENGTH, tokenizer=tokenizer)
    model.save_pretrained(directory)


def random_ids(num_tokens: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY, (num_tokens,), generator=generator).tolist()


def greedy(max_tokens: int) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)


class Subject:
    """The server's services on an event loop of this thread; its calls block until they are done."""

    def __init__(self, directory: Path, store: Path, **settings: Any) -> None:
        self._settings = Settings(
            model=str(directory), store=f"sqlite:{store}", max_sequence_tokens=ROW_TOKENS, **settings
        )
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        self.core: Core

    def __enter__(self) -> Self:
        try:
            self.core = self._runner.run(self._open())
        except BaseException:
            self.__exit__()
            raise
        return self

    async def _open(self) -> Core:
        metrics = Metrics()
        loaded = await in_a_thread_that_ends(load_models, self._settings)
        self.compressor = loaded[0][0]
        store = await open_store(self._settings.store)
        self._stack.push_async_callback(store.close)
        ((served, engine),) = await in_a_thread_that_ends(engines_of, loaded, self._settings, metrics)
        engine.start()
        self._stack.push_async_callback(asyncio.to_thread, engine.stop)
        self._stack.enter_context(one_core_elsewhere())
        return connect(self._settings, [(served, engine)], store, metrics, {}, Corpora())

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._stack.aclose())
        self._runner.close()

    @property
    def services(self) -> Services:
        return self.core.models.default

    @property
    def dtype(self) -> torch.dtype:
        """What the engine computes in here, and its peers are to as well."""
        return self.compressor.dtype

    def shape(self) -> PreTrainedModel:
        """The base without weights: those of the engine's are packed."""
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(self.compressor.base.config)

    def random_vectors(self, count: int, seed: int) -> Tensor:
        """A soft prompt (count, width) of about the size that a final norm gives its outputs."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(count, self.compressor.hidden_size, generator=generator).to(self.dtype)

    def run(self, work: Any) -> Any:
        """The result of a coroutine."""
        return self._runner.run(work)

    def generate(self, prompts: Sequence[Prompt], max_tokens: int) -> float:
        """Tokens a second over prompts that are all there at once."""

        async def work() -> float:
            started = time.perf_counter()
            await asyncio.gather(*(self.drain(prompt, max_tokens) for prompt in prompts))
            return len(prompts) * max_tokens / (time.perf_counter() - started)

        return float(self.run(work()))

    async def drain(self, prompt: Prompt, max_tokens: int) -> list[float]:
        """When each token of a greedy generation came."""
        async with aclosing(self.services.decoder.generate(prompt, greedy(max_tokens))) as events:
            times = [time.perf_counter() async for _ in events]
        assert len(times) == max_tokens
        return times

    async def store(self, token_ids: Sequence[int], parent: str | None = None) -> str:
        """The id of a document's summary, which is stored."""
        document = Document(tenant=self.core.tenant, token_ids=token_ids, parent=parent)
        return (await self.services.compressor.compress(document)).summary.id

    @property
    def call(self) -> Call:
        return Call(self.core.tenant)

    async def compress(self, segments: Sequence[Sequence[int]], soft_prompt: Tensor | None = None) -> list[Tensor]:
        """The summary vectors of each segment, from the engine, nothing stored."""
        async with aclosing(self.services.encoder.compress(segments, soft_prompt=soft_prompt)) as made:
            return [summary.vectors async for summary in made]

    def compress_together(self, documents: Sequence[Sequence[Sequence[int]]]) -> float:
        """Seconds to compress documents that are all there at once."""

        async def work() -> float:
            started = time.perf_counter()
            await asyncio.gather(*(self.compress(segments) for segments in documents))
            return time.perf_counter() - started

        return float(self.run(work()))
