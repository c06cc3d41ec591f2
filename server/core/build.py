"""The composition root: builds the parts from settings and hands them on; nothing else knows them all."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from model import AutoCompressor
from server.core.callers.access import Access
from server.core.callers.charged import Charged
from server.core.callers.keyring import read_keyring
from server.core.callers.revoked import Revoked
from server.core.checkpoints import open_checkpoint
from server.core.core import Core
from server.core.documents.compression import Compressor
from server.core.documents.intake import Intake
from server.core.documents.memory_tier import MemoryTier
from server.core.documents.portable import Portable
from server.core.documents.retention import Retainer
from server.core.documents.store_calls import StoreCalls
from server.core.documents.stored_secret import StoredSecret
from server.core.documents.summaries import AllSummaries
from server.core.generating import Generator
from server.core.jobs import Jobs
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
from server.core.served_model import ServedModel
from server.core.services import Services
from server.core.tenant import Tenant
from server.engine.protocol import Decoder, Encoder, Engine
from server.engine.torch.build import build_engine
from server.engine.torch.cores import in_a_thread_that_ends, one_core_elsewhere
from server.engine.torch.devices import choose_device, choose_dtype
from server.engine.torch.memory import most_bytes
from server.metrics import Metrics
from server.settings import Settings
from server.store import Budget, StoreError, SummaryStore, open_store
from server.store.metered import MeteredStore, tier_of

logger = logging.getLogger(__name__)

SAMPLED_BY = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
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
    compressor, served = await in_a_thread_that_ends(load_model, settings)
    budget = Budget(settings.store_bytes, metrics.store_kept_bytes.set, metrics.store_evictions.inc)
    store = await open_store(settings.store, budget=budget, old_space=Tenant(settings.tenant_salt).account)
    store = MeteredStore(store, metrics, tier=tier_of(settings.store))
    try:
        await warn_of_concerns(store)
        engine = await in_a_thread_that_ends(build_engine, compressor, served.max_sequence_tokens, settings, metrics)
        served = replace(served, working_vectors=engine.max_document_vectors)
        engine.start()
        try:
            core = connect(settings, served, engine, store, metrics)
            try:
                with one_core_elsewhere():
                    yield core
            finally:
                await core.jobs.close()
        finally:
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


def connect(settings: Settings, served: ServedModel, engine: Engine, store: SummaryStore, metrics: Metrics) -> Core:
    """The core over an engine and a store that are open."""
    metrics.memory_limit.set(most_bytes())
    metrics.model.info({"name": served.name, "fingerprint": served.fingerprint, "dtype": served.dtype})
    tenant, access = Tenant(settings.tenant_salt), None
    if settings.api_keys is not None:
        access = Access(settings.api_keys, tenant, Revoked(store, StoreCalls(metrics)))
        engine = Charged(engine)
    services = build_services(served, engine, engine, store, settings, metrics)
    return Core(
        settings=settings,
        models=Models(dict.fromkeys([served.name, *settings.other_names], services)),
        store=store,
        records=Records(
            store,
            StoreCalls(metrics),
            ttl_seconds=settings.response_ttl_seconds,
            max_bytes=settings.max_body_bytes,
        ),
        jobs=Jobs(),
        metrics=metrics,
        tenant=tenant,
        access=access,
    )


def build_services(
    model: ServedModel, encoder: Encoder, decoder: Decoder, store: SummaryStore, settings: Settings, metrics: Metrics
) -> Services:
    """The parts of one model."""
    max_together = max(1, settings.max_requests // QUEUE_SHARE)
    # whoever may bring vectors of their own under a key may bring others after it is deleted
    tier = MemoryTier(0 if settings.imports == "any" else settings.memory_tier_bytes, metrics)
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
        generator=Generator(model, decoder, prompter, expander, metrics),
        scorer=Scorer(model, decoder, prompter, expander, max_together=max_together),
        reranker=Reranker(model, decoder, summaries, opener, prompter, intake),
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


def sampling_of(compressor: AutoCompressor) -> dict[str, float]:
    """How a model's generation_config says that its tokens are to be drawn."""
    named = {name: getattr(compressor.base.generation_config, name, None) for name in SAMPLED_BY}
    return {name: value for name, value in named.items() if value}  # transformers' 0 is off, as its None is


def served_model(compressor: AutoCompressor, settings: Settings, *, name: str) -> ServedModel:
    """What the server is to know of a model that is loaded."""
    positions = compressor.positions
    # OPT's positions leave its soft prompts out, the rows of the KV pool do not
    whole = positions.max_positions * (1 if positions.counts_soft_prompt else 2)
    served = ServedModel(
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
        sampling=sampling_of(compressor),
    )
    if served.tokeniser.num_ids > served.vocabulary_size:
        logger.warning(
            "the tokenizer has ids up to %d and the model %d embeddings: a text with a token beyond those is refused",
            served.tokeniser.num_ids - 1,
            served.vocabulary_size,
        )
    return served
