"""The composition root: builds the parts from settings and hands them on; nothing else knows them all."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI

from model import AutoCompressor
from server.core.checkpoints import open_checkpoint
from server.core.documents.compression import Compressor
from server.core.documents.intake import Intake
from server.core.documents.portable import Portable
from server.core.documents.retention import Retainer
from server.core.documents.summaries import Summaries
from server.core.jobs import Jobs
from server.core.prompts.expansion import Expander
from server.core.prompts.fusing import Fuser
from server.core.prompts.gathering import Gatherer
from server.core.prompts.prompting import Prompter
from server.core.prompts.window import Endless
from server.core.reranking import Reranker
from server.core.served_model import ServedModel
from server.core.services import Services
from server.engine.protocol import Engine
from server.engine.torch.cores import in_a_thread_that_ends, one_core_elsewhere
from server.engine.torch.devices import choose_device, choose_dtype, choose_kernels
from server.engine.torch.engine import TorchEngine
from server.engine.torch.runner import Runner
from server.engine.torch.scheduler import Limits
from server.http.envelope import add_error_handlers
from server.http.middleware.access import Access
from server.http.routes import chat, completions, compress, health, jobs, native, page, rerank, tokens
from server.http.routes import models as openai
from server.http.routes import summaries as summary_routes
from server.metrics import Metrics
from server.settings import Settings
from server.store import SummaryStore, open_store

QUEUE_SHARE = 4  # of the engine's line, the part that one request's documents may take
CPU_STEP_TOKENS = 512  # of one document in one step: enough to keep a CPU busy


def create_app(services: Services) -> FastAPI:
    """The application over parts that are open already, and that outlive it."""
    app = FastAPI(
        title="autocompressor",
        version=version("autocompressor"),
        summary="Compress documents into summary vectors; generate and score conditioned on them.",
    )
    app.state.services = services
    app.add_middleware(Access, metrics=services.metrics, max_body_bytes=services.settings.max_body_bytes)
    native_routes = (
        compress.form_router,
        *(each.router for each in (compress, summary_routes, native, rerank, jobs, tokens)),
    )
    for router in (*native_routes, *(each.router for each in (completions, chat, openai, health, page))):
        app.include_router(router)
    add_error_handlers(app)
    return app


@asynccontextmanager
async def open_services(settings: Settings) -> AsyncIterator[Services]:
    """Load the model, open the store, start the engine; stop and close them at the end.

    Raises:
        ValueError, OSError, StoreError: a part cannot be built from these settings.
    """
    metrics = Metrics()
    compressor, served = await in_a_thread_that_ends(load_model, settings)
    store = await open_store(settings.store)
    try:
        engine = await in_a_thread_that_ends(build_engine, compressor, served, settings, metrics)
        engine.start()
        try:
            services = connect(settings, served, engine, store, metrics)
            try:
                with one_core_elsewhere():
                    yield services
            finally:
                await services.jobs.close()
        finally:
            await asyncio.to_thread(engine.stop)
    finally:
        await store.close()


def connect(settings: Settings, served: ServedModel, engine: Engine, store: SummaryStore, metrics: Metrics) -> Services:
    """Services over an engine and a store."""
    summaries = Summaries(served, store, metrics)
    compressor = Compressor(served, engine, summaries, metrics, tenant_salt=settings.tenant_salt)
    gatherer = Gatherer(served, engine, summaries, compressor)
    prompter = Prompter(served, summaries, gatherer, metrics)
    endless = Endless(served, prompter, raw_tokens=settings.raw_tokens)
    fuser = Fuser(engine, prompter)
    intake = Intake(
        served,
        compressor,
        Retainer(served, engine, metrics),
        default_ttl_seconds=settings.default_ttl_seconds,
        max_together=max(1, settings.max_requests // QUEUE_SHARE),
    )
    reranker = Reranker(served, engine, summaries, prompter, intake)
    portable = Portable(served, summaries, tenant_salt=settings.tenant_salt)
    metrics.model.info({"name": served.name, "fingerprint": served.fingerprint, "dtype": served.dtype})
    return Services(
        settings,
        served,
        engine,
        store,
        summaries,
        compressor,
        prompter,
        endless,
        Expander(served, summaries, prompter),
        fuser,
        intake,
        reranker,
        portable,
        Jobs(),
        metrics,
    )


def load_model(settings: Settings) -> tuple[AutoCompressor, ServedModel]:
    """Load the checkpoint that the settings name, on the device and in the format they choose."""
    device = choose_device(settings.device)
    dtype = choose_dtype(settings.dtype, device)
    name, compressor = open_checkpoint(settings.model, settings.data, dtype=dtype, device=device)
    if compressor.summary_length == 0:
        raise ValueError(f"the checkpoint {settings.model} has summary_length 0: it compresses nothing")
    if compressor.tokenizer is None:
        raise ValueError(f"the checkpoint {settings.model} has no tokenizer")
    return compressor, served_model(compressor, settings, name=name)


def served_model(compressor: AutoCompressor, settings: Settings, *, name: str) -> ServedModel:
    """What the server is to know of a model that is loaded."""
    positions = compressor.positions
    # OPT's positions leave its soft prompts out, the rows of the KV pool do not
    whole = positions.max_positions * (1 if positions.counts_soft_prompt else 2)
    return ServedModel(
        name=name,
        fingerprint=compressor.fingerprint,
        config=compressor.config,
        positions=positions,
        max_sequence_tokens=min(settings.max_sequence_tokens or whole, whole),
        vocabulary_size=compressor.base.config.vocab_size,
        hidden_size=compressor.hidden_size,
        dtype=str(compressor.dtype).removeprefix("torch."),
        device=str(compressor.device),
        created=int(time.time()),
        tokenizer=compressor.tokenizer,
        document_limit=settings.max_document_tokens,
        is_trained=compressor.is_trained,
    )


def build_engine(compressor: AutoCompressor, served: ServedModel, settings: Settings, metrics: Metrics) -> TorchEngine:
    """The built-in engine around a loaded model, not yet started."""
    kernels = choose_kernels(settings.attention, compressor.device, compressor.dtype)
    most = CPU_STEP_TOKENS if compressor.device.type == "cpu" else settings.max_batch_tokens
    runner = Runner(compressor, kernels, num_rows=settings.max_running_sequences, max_tokens=served.max_sequence_tokens)
    limits = Limits(
        max_running=settings.max_running_sequences,
        max_sequence_tokens=served.max_sequence_tokens,
        max_requests=settings.max_requests,
        max_batch_tokens=settings.max_batch_tokens,
        segments_together=max(1, most // compressor.segment_length),
    )
    return TorchEngine(
        runner,
        limits,
        num_appended=compressor.writer.num_appended,
        accumulate_summary=served.config.accumulate_summary,
        reads_alone=served.config.reads_alone,
        end_of_text=end_of_text_ids(compressor),
        tokenizer=served.tokenizer,
        metrics=metrics,
        prefix_cache_bytes=settings.prefix_cache_bytes,
    )


def end_of_text_ids(compressor: AutoCompressor) -> frozenset[int]:
    """Every token that ends a generation: the configuration may name one or several, the tokenizer another."""
    named = compressor.base.config.eos_token_id
    ids = {*(named if isinstance(named, list) else [named]), getattr(compressor.tokenizer, "eos_token_id", None)}
    return frozenset(ids - {None})
