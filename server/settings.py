"""Every setting of the server: one field, one environment variable, one flag of `autocompressor serve`."""

from collections import Counter
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from server.limits import MAX_DOCUMENT_TOKENS, MAX_TTL_SECONDS
from server.names import listed, pair

ENVIRONMENT_PREFIX = "AUTOCOMPRESSOR_"
OTLP_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")  # OpenTelemetry's own
LEAST_SECRET = 32  # characters
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class Settings(BaseSettings):
    """Read once, at the start, and never written back."""

    model_config = SettingsConfigDict(env_prefix=ENVIRONMENT_PREFIX, frozen=True, extra="forbid")

    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for all.")
    allowed_hosts: str | None = Field(
        None,
        description="Names that requests may be addressed to, with commas between, * for any; none is this machine's "
        "own where the server listens there alone, else any.",
    )
    cors_origins: str = Field(
        "", description="Origins of other pages that may call from a browser, with commas between; * for any."
    )
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    metrics_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="Port of its own for /metrics, at the same address and without a key; none has it beside the other "
        "routes, where api_keys ask for an admin's key.",
    )
    model: str = Field(
        "default", description="'default' or 'paper', which are bundled, a checkpoint directory, or a hub id."
    )
    aliases: str = Field(
        "",
        description="Other names that the model answers to and is listed under, with commas between: for clients that "
        "take certain names alone, such as gpt-*.",
    )
    other_models: str = Field(
        "",
        description="Models served beside the first, with commas between: NAME=CHECKPOINT, as of model, or without "
        "NAME= under its own name. Calls name one in `model`, and mean the first where they do not. Adapters on one "
        "base have its weights once.",
    )
    adapters: Literal["auto", "merged", "beside"] = Field(
        "auto",
        description="How a model with an adapter is run: 'merged' has a second copy of the weights that it changes, "
        "which is faster; 'beside' computes its product beside theirs and takes its own few weights. 'auto' is merged "
        "where no other model is on the base.",
    )
    data: Path | None = Field(
        None,
        description="Directory of the bases that were fetched for adapters; none is this user's, in ~/.local/share "
        "or where XDG_DATA_HOME says.",
    )
    engine: Literal["torch", "vllm"] = Field(
        "torch", description="What runs the model: 'torch' is built in, 'vllm' needs the extra of that name."
    )
    engine_args: str = Field(
        "",
        description="vLLM's own arguments, as NAME=VALUE with commas between or as a JSON object: "
        "tensor_parallel_size=2.",
    )
    role: Literal["all", "compress", "generate"] = Field(
        "all",
        description="Work that this process does: 'compress' makes vectors alone, 'generate' answers and scores alone, "
        "and calls for the other get 501.",
    )
    device: str = Field(
        "auto", description="'auto' takes CUDA where there is one; else as torch names it: cpu, cuda:1."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="'auto' is bfloat16 where the device computes in it, else float32."
    )
    attention: Literal["auto", "sdpa", "flash"] = Field(
        "auto", description="'auto' takes flash-attn on CUDA where it is installed, else torch's own kernels."
    )
    store: str = Field(
        "sqlite:summaries.sqlite3",
        description="Where summaries live: sqlite:PATH, redis://HOST:PORT/DB, redis+sentinel://HOST:PORT/SERVICE/DB, "
        "redis+cluster://HOST:PORT, each of the last three as rediss too.",
    )
    corpora: str = Field(
        "",
        description="Indexes that /search and /ask are of, with commas between: NAME=FOLDER, as `autocompressor index` "
        "made them, or a folder under its own name. Every caller may search all of them.",
    )
    stored_vectors: Literal["computed", "int8"] = Field(
        "computed",
        description="What is kept of summary vectors, and answered from: numbers as computed, or int8 with a scale for "
        "each vector, which is half of bfloat16's bytes.",
    )
    store_keys: str | None = Field(
        None,
        repr=False,
        description="Secrets that seal what the store keeps, each of 32 characters or more, with commas between: the "
        "first seals, all open. None seals nothing.",
    )
    memory_tier_bytes: NonNegativeInt = Field(
        2**26,
        description="Memory for vectors read lately, so that they are not fetched from the store again; 0 for none, as "
        "there is with 'any' imports.",
    )
    store_bytes: PositiveInt | None = Field(
        None,
        description="Most bytes that all values of the store have together; beyond it whole documents are evicted, the "
        "least recently used first, never one that does not expire. None is no bound.",
    )
    tenant_salt: str = Field("", description="Part of every summary id: other salts, other ids for equal documents.")
    api_keys: str | None = Field(
        None,
        repr=False,
        description="TOML file of the keys that callers need, its entries made by `autocompressor keys new`, and read "
        "again on SIGHUP. What has a [ in it is the entries themselves. None lets everyone in.",
    )
    export_secret: str | None = Field(
        None,
        repr=False,
        description="Signs exported summaries, so that servers with other stores take them; none is one that the store "
        "keeps.",
    )
    imports: Literal["own", "any"] = Field(
        "own",
        description="Which exported summaries are taken: 'own' are those this server's secret signed, 'any' those of "
        "whoever sends them, whose vectors then answer for the text.",
    )
    default_ttl_seconds: PositiveInt | None = Field(
        None, le=MAX_TTL_SECONDS, description="How long a summary lives when /compress does not say; none is for ever."
    )
    response_ttl_seconds: PositiveInt | None = Field(
        30 * 86400,
        le=MAX_TTL_SECONDS,
        description="How long responses are kept, and what was compacted of their conversations; none is for ever.",
    )
    compaction_keys: str | None = Field(
        None,
        repr=False,
        description="Secrets that seal compaction items, with commas between, so that servers with other stores read "
        "them: the first seals, all open. None is one that the store keeps.",
    )
    max_running_sequences: PositiveInt = Field(
        32,
        description="Generations that decode together: rows of each model's KV pool, taken when the server starts.",
    )
    max_sequence_tokens: PositiveInt | None = Field(
        None, description="Positions a row of the KV pool has; none is as many as the model."
    )
    max_requests: PositiveInt = Field(
        256, description="Requests that the engine of a model holds, running or not, before it answers 429."
    )
    max_batch_tokens: PositiveInt = Field(
        4096, description="Most positions in one forward pass; raise it until the device is compute-bound."
    )
    prefix_cache_bytes: NonNegativeInt = Field(
        2**28,
        description="Memory for keys and values of what prompts began with lately, so that none is read twice; several "
        "models have equal parts.",
    )
    working_bytes: PositiveInt | None = Field(
        None,
        description="Memory for keys and values of what is being read: three quarters for documents until they are "
        "compressed, the rest for prompts until they have a row, and a row's at least for each. Others wait; a "
        "document that needs more is refused. Several models have equal parts. None is a quarter of what is free at "
        "the start.",
    )
    raw_tokens: PositiveInt | None = Field(
        None,
        description="Last tokens of a prompt longer than the window that are not compressed, where a request does not "
        "say; none is a quarter of the window.",
    )
    max_document_tokens: PositiveInt = Field(
        MAX_DOCUMENT_TOKENS,
        description="Most tokens of a document, for models that read segments alone; others take what their positions "
        "do.",
    )
    max_body_bytes: PositiveInt = Field(16 * 2**20, description="Largest request body, decoded.")
    body_seconds: PositiveInt = Field(60, description="Longest pause in a request's body before it is given up.")
    max_connections: PositiveInt = Field(1024, description="Connections at a time, WebSockets too; more get 503.")
    shutdown_seconds: NonNegativeInt = Field(30, description="How long a stop waits for running requests.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe line logged.")
    log_format: Literal["text", "json"] = Field("text", description="Lines of the log: text, or one JSON object each.")
    traces: Literal["auto", "on", "off"] = Field(
        "auto",
        description="OpenTelemetry traces, by the extra otel; 'auto' is on where OTEL_EXPORTER_OTLP_ENDPOINT is set.",
    )

    @property
    def hosts(self) -> frozenset[str] | None:
        """Names that requests may be addressed to; None for any."""
        if self.allowed_hosts is not None:
            names = frozenset(name.strip().lower() for name in self.allowed_hosts.split(","))
            return None if "*" in names else names
        return LOOPBACK | {self.host.lower()} if self.host in LOOPBACK else None

    @property
    def origins(self) -> list[str]:
        return listed(self.cors_origins)

    @property
    def other_names(self) -> list[str]:
        """Of the model."""
        return listed(self.aliases)

    @property
    def checkpoints(self) -> list[tuple[str | None, str]]:
        """Of each model the name that it is given, None for its own, and its checkpoint; the first one first."""
        form = "NAME=CHECKPOINT, or a checkpoint"
        return [(None, self.model), *(pair(each, "other_models", form) for each in listed(self.other_models))]

    @property
    def corpus_folders(self) -> list[tuple[str, Path]]:
        """Of each corpus its name and the folder of its index."""
        named = [pair(each, "corpora", "NAME=FOLDER") for each in listed(self.corpora)]
        return [(name or Path(folder).absolute().name, Path(folder)) for name, folder in named]

    @property
    def compaction_secrets(self) -> list[str]:
        return listed(self.compaction_keys or "")

    @property
    def store_secrets(self) -> list[str]:
        return listed(self.store_keys or "")

    @model_validator(mode="after")
    def _store_keys_are_long(self) -> "Settings":
        # whoever has a copy of the store can try words on it for as long as he likes
        short = min(map(len, self.store_secrets), default=LEAST_SECRET)
        if short < LEAST_SECRET:
            raise ValueError(
                f"a key of store_keys has {short} characters, and {LEAST_SECRET} is the least: openssl rand -hex 32"
            )
        return self

    @model_validator(mode="after")
    def _tenants_vouch_for_imports(self) -> "Settings":
        if self.api_keys is not None and self.imports == "any":
            raise ValueError(
                "imports is 'any' and api_keys are given: whoever has a key could import vectors that answer for "
                "another tenant's text"
            )
        return self

    @model_validator(mode="after")
    def _names_are_different(self) -> "Settings":
        given = [name for name, _ in self.checkpoints if name is not None]
        for name, number in Counter([*given, *set(self.other_names)]).items():
            if number > 1:
                raise ValueError(f"other_models and aliases give the name {name!r} to {number} models")
        for name, number in Counter(name for name, _ in self.corpus_folders).items():
            if number > 1:
                raise ValueError(f"corpora give the name {name!r} to {number} indexes")
        return self

    @model_validator(mode="after")
    def _engine_has_what_it_is_asked(self) -> "Settings":
        if self.engine_args and self.engine != "vllm":
            raise ValueError(f"engine_args are vLLM's, and engine is {self.engine!r}")
        if self.engine == "vllm" and self.other_models:
            raise ValueError("engine 'vllm' serves one model, and other_models name more")
        if self.engine == "vllm" and self.stored_vectors != "computed":
            raise ValueError(f"stored_vectors is {self.stored_vectors!r}, and engine 'vllm' gives vectors as computed")
        return self

    @model_validator(mode="after")
    def _salt_is_text(self) -> "Settings":
        if "\x00" in self.tenant_salt:
            raise ValueError("tenant_salt has a NUL character")
        return self


def unknown_names(environment: dict[str, str]) -> list[str]:
    """Variables that look like ours and are not: pydantic-settings lets these pass unseen."""
    known = {ENVIRONMENT_PREFIX + name.upper() for name in Settings.model_fields}
    ours = (name for name in environment if name.upper().startswith(ENVIRONMENT_PREFIX))
    return sorted(name for name in ours if name.upper() not in known)


def load_settings(environment: dict[str, str], flags: dict[str, Any]) -> Settings:
    """Settings from flags, else the environment, else defaults; `traces` that nobody asks for are off.

    Raises:
        ValueError: an unknown variable, or a value that does not fit, said in a sentence.
    """
    unknown = unknown_names(environment)
    if unknown:
        raise ValueError(f"unknown setting {unknown[0]}; `autocompressor serve --help` lists them")
    settings = Settings(**flags)
    if settings.traces == "auto" and not any(map(environment.get, OTLP_ENDPOINTS)):
        return settings.model_copy(update={"traces": "off"})
    return settings
