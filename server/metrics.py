"""Prometheus metrics: names in base units (prometheus.io/docs/practices/naming), no document or id in a label."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)

# From 1 ms up: a small model answers well below the buckets that servers of large ones start with.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000)
RATIOS = (1, 2, 5, 10, 20, 50, 100, 200, 500)
STORE_OPERATIONS = ("get", "exist", "put", "touch", "delete", "stat", "list", "ping", "decode")
STORE_FAULTS = ("full", "unavailable", "damaged", "other")
SEQUENCES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
BYTES = tuple(float(4**power) for power in range(4, 13))  # from 256 bytes to 16 MiB
SHARES = (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)


class Metrics:
    """All of the server's metrics on one registry."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = CollectorRegistry() if registry is None else registry
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self.requests = self._counter("requests", "HTTP requests answered.", "endpoint", "status")
        self.request_seconds = self._histogram(
            "request_duration_seconds", "From a request's arrival to its last byte.", SECONDS, "endpoint"
        )
        self.queue_wait_seconds = self._histogram(
            "queue_wait_seconds",
            "From a request's coming to the engine to its first forward pass, the wait for a place included.",
            SECONDS,
            "kind",
        )
        self.time_to_first_token_seconds = self._histogram(
            "time_to_first_token_seconds", "From submission to a generation's first token.", SECONDS
        )
        self.inter_token_seconds = self._histogram(
            "inter_token_latency_seconds", "Between two tokens of one generation.", SECONDS
        )
        self.compress_seconds = self._histogram(
            "compress_duration_seconds", "Of one /compress call, tokenising and store included.", SECONDS
        )
        self.step_seconds = self._histogram("step_duration_seconds", "Of one forward pass.", SECONDS)
        self.step_tokens = self._histogram("step_tokens", "Positions in one forward pass.", TOKENS)
        self.compression_ratio = self._histogram(
            "compression_ratio", "Document tokens for each summary vector.", RATIOS
        )
        self.retention = self._histogram(
            "retention_ratio", "Share of the context's gain that vectors keep, where `measure` asked.", SHARES
        )
        self.tokens = self._counter("tokens", "Positions run: segment, prefill, decode, score.", "phase")
        self.segments = self._counter("segments", "Segments of documents: computed, or cached in the store.", "source")
        self.summary_vectors = self._counter("summary_vectors", "Summary vectors computed.")
        self.tokens_saved = self._counter(
            "prefill_tokens_saved", "Document tokens that summaries stood for, less their vectors."
        )
        self.rejections = self._counter("admission_rejections", "Requests refused at submission.", "reason")
        self.finished = self._counter("generations_finished", "Generations that ended.", "reason")
        self.store_seconds = self._histogram(
            "store_operation_seconds", "Of one call to the store.", SECONDS, "operation"
        )
        self.store_errors = self._counter("store_errors", "Calls to the store that failed.", "operation", "reason")
        self.tier_lookups = self._counter(
            "store_tier_lookups", "Segments' vectors asked for: hit, in memory; miss, read from the store.", "result"
        )
        self.tier_bytes = self._gauge("store_tier_bytes", "Of vectors kept in memory before the store.")
        self.store_kept_bytes = self._gauge("store_kept_bytes", "Of all values in the store, as last told.")
        self.store_evictions = self._counter("store_evictions", "Documents evicted to stay within store_bytes.")
        self.running = Gauge(
            "autocompressor_sequences_running", "Generations holding a KV row.", registry=self.registry
        )
        self.waiting = Gauge("autocompressor_requests_waiting", "Requests not yet in a batch.", registry=self.registry)
        self.kv_usage = Gauge("autocompressor_kv_rows_used_ratio", "Share of KV rows in use.", registry=self.registry)
        self.body_bytes = Gauge(
            "autocompressor_body_bytes", "Of bodies of unfinished requests.", registry=self.registry
        )
        self.model = Gauge(
            "autocompressor_model_info",
            "1 for each model that is served.",
            ("name", "fingerprint", "dtype"),
            registry=self.registry,
        )
        self._add_tokens()
        self._add_store()
        self._begin_at_zero()

    def _add_tokens(self) -> None:
        self.prompt_tokens = self._counter("prompt_tokens", "Tokens of prompts as they came, summaries left out.")
        self.generated_tokens = self._counter("generated_tokens", "Tokens generated.")
        self.compress_tokens = self._counter(
            "compress_tokens", "Tokens of documents: computed, or cached in the store.", "source"
        )
        self.prefill_seconds = self._histogram(
            "prefill_seconds", "From a generation's first forward pass to its first token.", SECONDS
        )
        self.batch_size = self._histogram("batch_size", "Requests in one forward pass.", SEQUENCES)
        self.context_gate = self._counter(
            "context_gate", "Prompts of OpenAI's routes: raw, or compressed as longer than the window.", "decision"
        )
        self.fallbacks = self._counter(
            "fallbacks", "Prompts that lost something to fit: vectors thinned, or oldest segments dropped.", "reason"
        )
        self.prefix_queries = self._counter(
            "prefix_cache_queries", "Requests whose beginning was looked for in memory.", "outcome"
        )
        self.prefix_positions = self._counter(
            "prefix_cache_positions", "Of their positions, those found in memory (hit) and read (miss).", "outcome"
        )
        self.prefix_bytes = self._gauge("prefix_cache_bytes", "Keys and values of prompts' beginnings kept in memory.")
        self.memory_limit = self._gauge("memory_limit_bytes", "Memory of the machine, or of the container.")

    def _add_store(self) -> None:
        self.store_operations = self._counter(
            "store_operations",
            "Records asked of the store or put: hit, miss, ok, refused as others changed it, error.",
            "operation",
            "tier",
            "outcome",
        )
        self.store_bytes = self._counter("store_bytes", "Bytes of records: read, written.", "direction")
        self.store_value_bytes = self._histogram("store_value_bytes", "Of one record that was put.", BYTES)
        self.damaged_records = self._counter("store_damaged_records", "Records that were found damaged.")
        self.lost_summaries = self._counter(
            "store_lost_summaries", "Summaries found with segments gone, as from a Redis that evicts."
        )

    def _begin_at_zero(self) -> None:
        """Have each series of what should not happen be there from the start: the first time counts as a rise."""
        for operation in STORE_OPERATIONS:
            for reason in STORE_FAULTS:
                self.store_errors.labels(operation=operation, reason=reason)
        for reason in ("queue_full", "bodies"):
            self.rejections.labels(reason=reason)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"autocompressor_{name}", text, registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"autocompressor_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"autocompressor_{name}", text, labels, buckets=buckets, registry=self.registry)
