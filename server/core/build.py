"""The composition root: builds the parts from settings and hands them on; nothing else knows them all."""

import asyncio
import importlib
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from model import AutoCompressor
from server.core.asking import Asker
from server.core.callers.access import Access
from server.core.callers.charged import Charged
from server.core.callers.keyring import read_keyring
from server.core.callers.revoked import Revoked
from server.core.core import Core
from server.core.corpora.corpus import Corpora, open_corpora
from server.core.documents.compression import Compressor
from server.core.documents.intake import Intake
from server.core.documents.memory_tier import MemoryTier
from server.core.documents.portable import Portable
from server.core.documents.retention import Retainer
from server.core.documents.store_calls import StoreCalls
from server.core.documents.stored_secret import StoredSecret
from server.core.documents.summaries import AllSummaries
from server.core.door import Door
from server.core.generating import Generator
from server.core.jobs.jobs import Jobs
from server.core.loading import load_models
from server.core.models import Models
from server.core.prompts.expansion import Expander
from server.core.prompts.fusing import Fuser
from server.core.prompts.gathering import Gatherer
from server.core.prompts.prepared import Preparer
from server.core.prompts.prompting import Prompter
from server.core.prompts.window import Window
from server.core.reranking import Reranker
from server.core.responses.appending import Appender
from server.core.responses.carrying import Carrier
from server.core.responses.compacting import Compactor
from server.core.responses.opening import Opener
from server.core.responses.records import Records
from server.core.responses.responding import Responder
from server.core.responses.sealing import Sealer
from server.core.scoring import Scorer
from server.core.searching import Searcher
from server.core.served_model import ServedModel
from server.core.services import Services
from server.core.tenant import Tenant
from server.engine.part import Part
from server.engine.protocol import Decoder, Encoder, Engine, OwnEngine
from server.engine.torch.build import Loaded, build_engines, end_of_text_ids
from server.engine.torch.cores import in_a_thread_that_ends, one_core_elsewhere
from server.engine.torch.memory import most_bytes
from server.engine.vllm import environment
from server.limits import MAX_BODIES
from server.metrics import Metrics
from server.settings import Settings
from server.store import Budget, SealedStore, StoreError, StoreKeys, SummaryStore, open_store
from server.store.metered import MeteredStore, tier_of

logger = logging.getLogger(__name__)

QUEUE_SHARE = 4  # of the engine's line, the part that one request's documents may take


@asynccontextmanager
async def open_core(settings: Settings) -> AsyncIterator[Core]:
    """Load the model, open the store, start the engine; stop and close them at the end.

    Raises:
        ValueError, OSError, StoreError: a part cannot be built from these settings.
    """
    metrics = Metrics()
    if settings.api_keys is not None:
        read_keyring(settings.api_keys)  # what is wrong with it is told before the model is loaded
    corpora = await asyncio.to_thread(open_corpora, settings.corpus_folders)  # as early, for the same reason
    loaded = await in_a_thread_that_ends(load_models, settings)
    corpora.require_models({served.fingerprint: served.name for _, served in loaded})
    quotas: dict[str, int] = {}
    budget = Budget(settings.store_bytes, metrics.store_kept_bytes.set, metrics.store_evictions.inc, quotas)
    store = await open_store(settings.store, budget=budget, old_space=Tenant(settings.tenant_salt).account)
    sealed = SealedStore(store, StoreKeys(settings.store_secrets))
    store = MeteredStore(sealed, metrics, tier=tier_of(settings.store))
    try:
        await warn_of_concerns(store)
        served = [
            (replace(model, working_vectors=engine.max_document_vectors), engine)
            for model, engine in await in_a_thread_that_ends(engines_of, loaded, settings, metrics)
        ]
        try:
            for _, engine in served:
                engine.start()
            core = connect(settings, served, store, metrics, quotas, corpora)
            try:
                with one_core_elsewhere():
                    yield core
            finally:
                await core.jobs.close()
        finally:
            for _, engine in served:
                await asyncio.to_thread(engine.stop)
    finally:
        await store.close()


async def warn_of_concerns(store: SummaryStore) -> None:
    """Log what is wrong with how the store is set up; one that cannot be reached may come later."""
    try:
        for concern in await store.concerns():
            logger.warning("%s", concern)
    except StoreError as error:
        logger.warning("the store does not answer yet: %s", error)


def engines_of(
    loaded: list[tuple[AutoCompressor, ServedModel]], settings: Settings, metrics: Metrics
) -> list[tuple[ServedModel, OwnEngine]]:
    """The models with their engines, not yet started, which are all that keeps their weights then.

    Raises:
        ValueError: the engine that the settings name is not installed, or refuses a model.
    """
    models = [served for _, served in loaded]
    if settings.engine == "vllm":
        ((compressor, served),) = loaded
        return [(served, vllm_engine(compressor, served, settings, metrics))]
    parts = [Loaded(served.name, compressor, served.max_sequence_tokens) for compressor, served in loaded]
    loaded.clear()
    return list(zip(models, build_engines(parts, settings, metrics), strict=True))


def vllm_engine(compressor: AutoCompressor, served: ServedModel, settings: Settings, metrics: Metrics) -> OwnEngine:
    """An engine of vLLM's."""
    environment.prepare()
    try:
        vllm = importlib.import_module("server.engine.vllm.build")  # not at the top: it brings vLLM, which is an extra
    except ImportError as error:
        raise ValueError(f"engine 'vllm' needs the extra vllm, pip install 'autocompressor[vllm]': {error}") from error
    end_of_text = end_of_text_ids(compressor)
    engine: OwnEngine = vllm.build_engine(
        compressor, served.max_sequence_tokens, settings, metrics, end_of_text=end_of_text
    )
    return engine


def connect(
    settings: Settings,
    served: Sequence[tuple[ServedModel, Engine]],
    store: SummaryStore,
    metrics: Metrics,
    quotas: dict[str, int],
    corpora: Corpora,
) -> Core:
    """The core over engines, a store and corpora that are open; `quotas` are the store's, and the keys change them."""
    metrics.memory_limit.set(most_bytes())
    if settings.role != "all":
        served = [(model, Part(engine, settings.role)) for model, engine in served]
    tenant, access = Tenant(settings.tenant_salt), None
    if settings.api_keys is not None:
        access = Access(settings.api_keys, tenant, Revoked(store, StoreCalls(metrics)), quotas)
        served = [(model, Charged(engine)) for model, engine in served]
    # whoever may bring vectors of their own under a key may bring others after it is deleted
    tier = MemoryTier(0 if settings.imports == "any" else settings.memory_tier_bytes, metrics)
    by_name = {}
    for model, engine in served:
        metrics.model.labels(model.name, model.fingerprint, model.dtype).set(1)
        by_name[model.name] = build_services(model, engine, engine, store, tier, settings, metrics)
    first = next(iter(by_name.values()))
    return Core(
        settings=settings,
        models=Models(by_name | dict.fromkeys(settings.other_names, first)),
        store=store,
        records=Records(
            store,
            StoreCalls(metrics),
            ttl_seconds=settings.response_ttl_seconds,
            max_bytes=settings.max_body_bytes,
        ),
        jobs=Jobs(store, StoreCalls(metrics), tenant, max_bytes=MAX_BODIES * settings.max_body_bytes),
        metrics=metrics,
        tenant=tenant,
        access=access,
        corpora=corpora,
    )


def build_services(
    model: ServedModel,
    encoder: Encoder,
    decoder: Decoder,
    store: SummaryStore,
    tier: MemoryTier,
    settings: Settings,
    metrics: Metrics,
) -> Services:
    """The parts of one model."""
    max_together = max(1, settings.max_requests // QUEUE_SHARE)
    summaries = AllSummaries(model, store, metrics, tier)
    compressor = Compressor(model, encoder, summaries, metrics)
    sealer = Sealer(StoredSecret(store, StoreCalls(metrics), "compaction", None), settings.compaction_secrets)
    opener = Opener(model, summaries, sealer)
    appender, carrier = Appender(compressor, opener), Carrier(model, encoder, summaries, opener)
    prompter = Prompter(model, summaries, opener, Gatherer(model, decoder, summaries, compressor), metrics)
    window = Window(model, prompter, raw_tokens=settings.raw_tokens)
    expander = Expander(model, summaries, prompter)
    intake = Intake(
        model,
        compressor,
        Retainer(model, encoder, decoder, metrics),
        default_ttl_seconds=settings.default_ttl_seconds,
        max_together=max_together,
    )
    preparer = Preparer(prompter, window, expander, Fuser(decoder, prompter), metrics)
    generator = Generator(model, decoder, prompter, expander)
    reranker = Reranker(model, decoder, summaries, opener, prompter, intake)
    return Services(
        model=model,
        encoder=encoder,
        decoder=decoder,
        summaries=summaries,
        compressor=compressor,
        intake=intake,
        portable=Portable(
            model,
            summaries,
            StoredSecret(store, StoreCalls(metrics), "export", settings.export_secret),
            takes_any=settings.imports == "any",
            default_ttl_seconds=settings.default_ttl_seconds,
        ),
        prompter=prompter,
        window=window,
        expander=expander,
        preparer=preparer,
        opener=opener,
        responder=Responder(
            model,
            opener,
            Compactor(model, opener, appender, carrier, sealer),
            prompter,
            preparer,
            expander,
            ttl_seconds=settings.response_ttl_seconds,
        ),
        generator=generator,
        scorer=Scorer(model, decoder, prompter, expander, max_together=max_together),
        reranker=reranker,
        searcher=Searcher(model, encoder, reranker),
        asker=Asker(model, prompter, expander, generator),
        door=Door(decoder, metrics, max_requests=settings.max_requests),
    )
