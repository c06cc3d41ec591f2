"""Summaries as files: to another server of the same model, or to another engine.

An export is one safetensors file: the vectors of all segments, (N, D), with their ranks and anchors where they have
some, and in its metadata the manifest and a signature of all. The signature's key comes from a secret of the store's
and from the tenant's salt: a server with others takes no file of this one, unless it is told to take any. Vectors that
are taken answer for their text as if they had been computed here.
"""

import asyncio
import base64
import hmac
import io
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from model.compressors import SegmentSummary
from server.core.documents.imported import require_equal, require_given, require_keys
from server.core.documents.renewal import merged
from server.core.documents.stored_secret import StoredSecret
from server.core.documents.summaries import AllSummaries, Summaries, Summary
from server.core.served_model import ServedModel
from server.core.tenant import Tenant
from server.errors import InvalidRequest, NotReady, QuotaReached, SummaryNotFound
from server.store import MissingReferences
from server.store.codec import (
    CorruptRecord,
    FingerprintMismatch,
    Manifest,
    decode_manifest,
    decode_notes,
    decode_segment,
    encode_manifest,
    encode_segment,
)

logger = logging.getLogger(__name__)

IMPORTING_SECONDS = 3600.0  # how long segments wait for their manifest, once nobody stores more of them
MAX_ATTEMPTS = 3  # to store one whose segments are deleted meanwhile


class Portable:
    """Exports and imports."""

    def __init__(
        self,
        model: ServedModel,
        summaries: AllSummaries,
        secret: StoredSecret,
        *,
        takes_any: bool,
        default_ttl_seconds: float | None,
    ) -> None:
        """`takes_any`: files of any server of the same model, signed or not."""
        self._default_ttl_seconds = default_ttl_seconds
        self._model = model
        self._summaries = summaries
        self._secret = secret
        self._takes_any = takes_any

    async def export(self, summary: Summary, tenant: Tenant) -> bytes:
        """A safetensors file that `take` takes; SummaryNotFound where the summary was deleted since it was read."""
        found = await self._summaries.of(tenant).segments.find(summary.manifest.segments)
        segments = [part for part in found if part is not None]
        if len(segments) < len(summary.manifest.segments):
            raise SummaryNotFound(f"summary {summary.id!r} was deleted or has expired", param="id")
        return await asyncio.to_thread(self._encoded, summary, _joined(segments), await self._key(tenant))

    async def prompt_embeds(self, summary: Summary, tenant: Tenant) -> bytes:
        """The soft prompt, (P, D), as vLLM takes it: base64 of what torch.save writes (docs.vllm.ai, prompt_embeds)."""
        vectors = await self._summaries.of(tenant).vectors(summary)
        return await asyncio.to_thread(_saved, vectors)

    async def take(
        self, summary_id: str, data: bytes, *, tenant: Tenant, ttl_seconds: float | None
    ) -> tuple[Summary, bool]:
        """Store an export under its id, and say whether it is new. Segments that are stored already are kept.

        Args:
            ttl_seconds: None is the server's default.

        Raises:
            InvalidRequest: not a whole export of this summary, or of another tenant. ModelMismatch: of another model.
            NotReady: others delete its segments as fast as they are stored.
        """
        ttl_seconds = self._default_ttl_seconds if ttl_seconds is None else ttl_seconds
        manifest, joined = await asyncio.to_thread(self._decoded, summary_id, data, await self._key(tenant))
        parts = dict(zip(manifest.segments, self._split(joined, manifest.segment_tokens), strict=True))
        summary = Summary(
            summary_id, replace(manifest, created=time.time(), tenant=tenant.owner(self._model.fingerprint))
        )
        summaries = self._summaries.of(tenant)
        async with summaries.segments.kept(list(parts), ttl_seconds=IMPORTING_SECONDS):
            return await self._stored(summaries, summary, parts, ttl_seconds)

    async def _stored(
        self, summaries: Summaries, summary: Summary, parts: Mapping[str, SegmentSummary], ttl_seconds: float | None
    ) -> tuple[Summary, bool]:
        """Store these segments where they are not, and the manifest; as `take`."""
        for _ in range(MAX_ATTEMPTS):
            found = await summaries.find(summary.id)
            is_new = found is None or not await summaries.is_whole(found[0])
            try:
                if is_new:
                    await _put_segments(summaries, parts)
                stored = await summaries.update(
                    summary.id, partial(_beside, summary, is_new=is_new), ttl_seconds=ttl_seconds
                )
            except QuotaReached:  # nothing half-stored takes the room of what would fit
                await summaries.segments.forget(list(parts))
                raise
            except MissingReferences:
                logger.info("segments of %s were deleted meanwhile; storing them again", summary.id)
            else:
                assert stored is not None
                return stored, is_new
        raise NotReady(f"segments of {summary.id} are deleted as fast as they are stored; try again later")

    async def _key(self, tenant: Tenant) -> bytes:
        """What signs the tenant's files."""
        return tenant.export_key(self._model.fingerprint, await self._secret.get())

    def _encoded(self, summary: Summary, joined: SegmentSummary, key: bytes) -> bytes:
        manifest = encode_manifest(replace(summary.manifest, tenant=None, has_text=False))
        notes = {"manifest": manifest.decode(), "signature": self._signature(summary.id, manifest, joined, key)}
        return encode_segment(joined, fingerprint=summary.manifest.fingerprint, notes=notes)

    def _decoded(self, summary_id: str, data: bytes, key: bytes) -> tuple[Manifest, SegmentSummary]:
        try:
            joined = decode_segment(data, fingerprint=self._model.fingerprint)
            notes = decode_notes(data)
            # JSON can carry half of a surrogate pair, which no encoding takes
            encoded = notes.get("manifest", "").encode(errors="replace")
            manifest = decode_manifest(encoded, fingerprint=self._model.fingerprint)
        except CorruptRecord as error:
            raise InvalidRequest(f"the body is no exported summary: {error}") from error
        except FingerprintMismatch as error:
            raise self._model.mismatch("the file", error.stored, param="id") from error
        self._require_consistent(summary_id, manifest, joined)
        signature = self._signature(summary_id, encoded, joined, key)
        given = notes.get("signature", "").encode(errors="replace")
        if not (self._takes_any or hmac.compare_digest(given, signature.encode())):
            raise InvalidRequest(
                "the file's signature differs: it is changed, or of a server with another tenant_salt, or with another "
                "store and not the same export_secret"
            )
        return manifest, joined

    def _require_consistent(self, summary_id: str, manifest: Manifest, joined: SegmentSummary) -> None:
        require_given(manifest)
        require_keys(summary_id, manifest, reads_alone=self._model.config.reads_alone)
        config = self._model.config
        if not all(0 < tokens <= config.segment_length for tokens in manifest.segment_tokens):
            raise InvalidRequest(f"a segment of the file has not between 1 and {config.segment_length} tokens")
        expected = (sum(map(config.num_vectors, manifest.segment_tokens)), self._model.hidden_size)
        shape, num_vectors = tuple(joined.vectors.shape), self._model.num_vectors_of(manifest.segment_tokens)
        if shape != expected or manifest.vectors != num_vectors:
            raise InvalidRequest(f"the file has vectors of shape {shape}; {expected} are expected")
        if self._model.is_ordered and joined.ranks is None:
            raise InvalidRequest("the file has vectors without ranks; this model's have an order of importance")
        self._model.require_segments(manifest.segment_tokens)
        require_equal(manifest.segments, self._split(joined, manifest.segment_tokens))

    def _split(self, joined: SegmentSummary, segment_tokens: Sequence[int]) -> list[SegmentSummary]:
        """The summaries of segments of so many tokens, in memory of their own."""
        counts = list(map(self._model.config.num_vectors, segment_tokens))
        vectors, ranks, anchors = (
            [None] * len(counts) if part is None else [each.clone() for each in part.split(counts)]
            for part in (joined.vectors, joined.ranks, joined.anchors)
        )
        return [SegmentSummary(*parts) for parts in zip(vectors, ranks, anchors, strict=True)]

    def _signature(self, summary_id: str, manifest: bytes, joined: SegmentSummary, key: bytes) -> str:
        parts = [_bytes(part) for part in (joined.vectors, joined.ranks, joined.anchors) if part is not None]
        signed = b"\0".join((manifest, summary_id.encode())) if self._model.config.reads_alone else manifest
        return hmac.new(key, signed + b"\0" + b"".join(parts), "sha256").hexdigest()


def _beside(new: Summary, found: Summary | None, _: float | None, *, is_new: bool) -> Summary:
    """What is to be stored of an import: what is stored already, if it is whole."""
    if found is not None and not is_new:
        return found
    return merged(new, found, keeps_text=False)


async def _put_segments(summaries: Summaries, parts: Mapping[str, SegmentSummary]) -> None:
    """Store those of these segments that are not stored."""
    is_stored = await summaries.segments.are_stored(list(parts))
    for (key, part), is_known in zip(parts.items(), is_stored, strict=True):
        if not is_known:
            await summaries.segments.put(key, part, ttl_seconds=IMPORTING_SECONDS)


def _joined(segments: Sequence[SegmentSummary]) -> SegmentSummary:
    """One after the other; ranks and anchors stay those within each segment."""
    ranks = [each.ranks for each in segments if each.ranks is not None]
    anchors = [each.anchors for each in segments if each.anchors is not None]
    vectors = torch.cat([each.vectors for each in segments])
    return SegmentSummary(vectors, torch.cat(ranks) if ranks else None, torch.cat(anchors) if anchors else None)


def _bytes(part: Tensor) -> bytes:
    return part.contiguous().view(torch.uint8).numpy().tobytes()


def _saved(vectors: Tensor) -> bytes:
    buffer = io.BytesIO()
    torch.save(vectors, buffer)
    return base64.b64encode(buffer.getvalue())
