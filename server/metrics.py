"""Prometheus metrics: names in base units (prometheus.io/docs/practices/naming), no document or id in a label."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector

# From 1 ms up: a small model answers well below the buckets that servers of large ones start with.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000)
RATIOS = (1, 2, 5, 10, 20, 50, 100, 200, 500)
SHARES = (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)


class Metrics:
    """All of the server's metrics on one registry."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = CollectorRegistry() if registry is None else registry
        ProcessCollector(registry=self.registry)
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
        self.store_errors = self._counter("store_errors", "Calls to the store that failed.", "operation")
        self.store_bytes = Gauge(
            "autocompressor_store_bytes", "Of all values in the store, as last told.", registry=self.registry
        )
        self.store_evictions = self._counter("store_evictions", "Documents evicted to stay within store_bytes.")
        self.running = Gauge(
            "autocompressor_sequences_running", "Generations holding a KV row.", registry=self.registry
        )
        self.waiting = Gauge("autocompressor_requests_waiting", "Requests not yet in a batch.", registry=self.registry)
        self.kv_usage = Gauge("autocompressor_kv_rows_used_ratio", "Share of KV rows in use.", registry=self.registry)
        self.body_bytes = Gauge(
            "autocompressor_body_bytes", "Of bodies of unfinished requests and jobs.", registry=self.registry
        )
        self.model = Info("autocompressor_model", "The model that is served.", registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"autocompressor_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"autocompressor_{name}", text, labels, buckets=buckets, registry=self.registry)
