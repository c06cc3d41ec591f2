"""A document as a client gives it, and what became of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from server.core.documents.retention import Retention
from server.core.documents.summaries import Summary
from server.core.receipts import Receipt
from server.core.tenant import Tenant
from server.text import BYTE_ORDER_MARK


@dataclass(frozen=True, kw_only=True)
class Document:
    """A text or token ids, whole or what continues the summary `parent`.

    Attributes:
        ttl_seconds: None is the server's default, where `Intake` takes the document, and else for ever.
        metadata: added to what an equal document has.
        keep_text: store the segments' token ids, too.
        measures: how much of the text its vectors keep is measured, whether it was stored before or not.
        parse_special: texts of control tokens stand for these; else they are text.
        renews: whether an equal document that is stored gets life and metadata; without, it stays as it is.
        waits: for room in the engine's line, rather than being refused where it is full.
    """

    tenant: Tenant
    text: str | None = None
    token_ids: Sequence[int] | None = None
    parent: str | None = None
    ttl_seconds: float | None = None
    metadata: dict[str, str] | None = None
    keep_text: bool = False
    measures: bool = False
    parse_special: bool = False
    renews: bool = True
    waits: bool = False

    def __post_init__(self) -> None:
        """Drop a byte order mark, which some programs write at a file's start, and which is no text."""
        if self.text is not None:
            object.__setattr__(self, "text", self.text.removeprefix(BYTE_ORDER_MARK))


@dataclass(frozen=True)
class Timings:
    """Seconds on tokenising, waited for the engine, its queue included, on all else, and in all."""

    tokenize_seconds: float
    engine_seconds: float
    store_seconds: float
    total_seconds: float


@dataclass(frozen=True)
class Compressed:
    """What `Compressor.compress` did.

    Attributes:
        is_new: the document was not there before.
        cached_segments, cached_tokens: of the text, what was not computed by this call.
        tokenize_seconds, engine_seconds: of `total_seconds`, spent on tokenising, and waited for the engine.
        queue_seconds: of `engine_seconds`, before the first forward pass.
        retention: where it was measured.
    """

    summary: Summary
    is_new: bool
    cached_segments: int
    cached_tokens: int
    tokenize_seconds: float = 0.0
    engine_seconds: float = 0.0
    queue_seconds: float = 0.0
    total_seconds: float = 0.0
    retention: Retention | None = None

    @property
    def timings(self) -> Timings:
        store_seconds = self.total_seconds - self.engine_seconds - self.tokenize_seconds
        return Timings(self.tokenize_seconds, self.engine_seconds, store_seconds, self.total_seconds)

    @property
    def receipt(self) -> Receipt:
        """The tokens that were not read are those of cached segments."""
        is_cached = self.cached_tokens > 0 and self.engine_seconds == 0
        return Receipt(
            prefill_tokens_saved=self.cached_tokens,
            cache="store" if is_cached else "computed",
            queue_seconds=self.queue_seconds,
            compute_seconds=max(0.0, self.engine_seconds - self.queue_seconds),
        )
