"""Summaries as files: to another server of the same model, or to another engine.

An export is one safetensors file: the vectors of all segments, (N * S, D), and in its metadata the manifest and a
signature of both. The signature's key comes from the tenant's salt: a server with another takes no file of this one,
and without the salt, where it is secret, nobody can make one.
"""

import asyncio
import base64
import hmac
import io
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from model.compressors import SegmentSummary
from server import chain
from server.errors import InvalidRequest, ModelMismatch, SummaryNotFound
from server.served_model import ServedModel
from server.store.codec import (
    CorruptRecord,
    FingerprintMismatch,
    Manifest,
    decode_manifest,
    decode_notes,
    decode_summary,
    encode_manifest,
    encode_summary,
)
from server.summaries import Summaries, Summary

IMPORTING_SECONDS = 3600.0  # how long segments wait for their manifest


class Portable:
    """Exports and imports."""

    def __init__(self, model: ServedModel, summaries: Summaries, *, tenant_salt: str) -> None:
        root = chain.root_key(model.fingerprint, tenant_salt)
        self._tenant = chain.derived_key(root, "tenant")
        self._key = chain.derived_key(root, "export").encode()
        self._model = model
        self._summaries = summaries

    async def export(self, summary: Summary) -> bytes:
        """A safetensors file that `take` takes; SummaryNotFound where the summary was deleted since it was read."""
        segments = [part for part in await self._summaries.segments(summary.manifest.segments) if part is not None]
        if len(segments) < len(summary.manifest.segments):
            raise SummaryNotFound(f"summary {summary.id!r} was deleted or has expired", param="id")
        return await asyncio.to_thread(self._encoded, summary, _joined(segments))

    async def prompt_embeds(self, summary: Summary) -> bytes:
        """The soft prompt, (P, D), as vLLM takes it: base64 of what torch.save writes (docs.vllm.ai, prompt_embeds)."""
        segments = await self._summaries.vectors(summary)
        return await asyncio.to_thread(_saved, torch.cat([segment.vectors for segment in segments]))

    async def take(self, summary_id: str, data: bytes, *, ttl_seconds: float | None) -> tuple[Summary, bool]:
        """Store an export under its id, and say whether it is new. Segments that are stored already are kept.

        Raises:
            InvalidRequest: not a whole export of this summary, or of another tenant. ModelMismatch: of another model.
        """
        manifest, joined = await asyncio.to_thread(self._decoded, summary_id, data)
        found = await self._summaries.find(summary_id)
        if found is not None:
            await self._summaries.put(found[0], ttl_seconds=ttl_seconds)
            return found[0], False
        stored = await self._summaries.segments(manifest.segments)
        lengths = [self._model.config.num_vectors(tokens) for tokens in manifest.segment_tokens]
        for key, part, known in zip(manifest.segments, _split(joined, lengths), stored, strict=True):
            if known is None:
                await self._summaries.put_segment(key, part.on_cpu(), ttl_seconds=IMPORTING_SECONDS)
        summary = Summary(summary_id, replace(manifest, created=time.time(), tenant=self._tenant))
        await self._summaries.put(summary, ttl_seconds=ttl_seconds)
        return summary, True

    def _encoded(self, summary: Summary, joined: SegmentSummary) -> bytes:
        text = encode_manifest(replace(summary.manifest, tenant=None)).decode()
        notes = {"manifest": text, "signature": self._signature(summary.id, text, joined)}
        return encode_summary(joined, fingerprint=summary.manifest.fingerprint, notes=notes)

    def _decoded(self, summary_id: str, data: bytes) -> tuple[Manifest, SegmentSummary]:
        try:
            joined = decode_summary(data, fingerprint=self._model.fingerprint)
            notes = decode_notes(data)
            manifest = decode_manifest(notes.get("manifest", "").encode(), fingerprint=self._model.fingerprint)
        except CorruptRecord as error:
            raise InvalidRequest(f"the body is no exported summary: {error}") from error
        except FingerprintMismatch as error:
            raise ModelMismatch(f"the file is of another model than the one served: {error}") from error
        self._require_consistent(summary_id, manifest, joined)
        expected = self._signature(summary_id, notes["manifest"], joined)
        if not hmac.compare_digest(notes.get("signature", ""), expected):
            raise InvalidRequest("the file's signature differs: it is changed, or of a server with another tenant_salt")
        return manifest, joined

    def _require_consistent(self, summary_id: str, manifest: Manifest, joined: SegmentSummary) -> None:
        num_segments, config = len(manifest.segments), self._model.config
        is_of_another = not config.reads_alone and manifest.segments[-1:] != (summary_id,)
        if not num_segments or is_of_another or not all(map(chain.is_key, manifest.segments)):
            named = manifest.segments[-1] if num_segments else "none"
            raise InvalidRequest(f"the file is of summary {named!r}, not of {summary_id!r}", param="id")
        expected = (sum(map(config.num_vectors, manifest.segment_tokens)), self._model.hidden_size)
        shape = tuple(joined.vectors.shape)
        if shape != expected or manifest.vectors != self._model.num_vectors(manifest.segment_tokens):
            raise InvalidRequest(f"the file has vectors of shape {shape}; {expected} are expected")
        if not all(0 < tokens <= config.segment_length for tokens in manifest.segment_tokens):
            raise InvalidRequest(f"a segment of the file has not between 1 and {config.segment_length} tokens")
        self._model.require_segments(manifest.segment_tokens)

    def _signature(self, summary_id: str, manifest: str, joined: SegmentSummary) -> str:
        """Of everything in the file; the id where the manifest does not tell it."""
        signed = f"{summary_id} {manifest}" if self._model.config.reads_alone else manifest
        tensors = [part for part in (joined.vectors, joined.ranks, joined.anchors) if part is not None]
        payload = b"".join(part.contiguous().view(torch.uint8).numpy().tobytes() for part in tensors)
        return hmac.new(self._key, signed.encode() + b"\0" + payload, "sha256").hexdigest()


def _joined(segments: Sequence[SegmentSummary]) -> SegmentSummary:
    """The summaries of a document's segments, one after another."""
    return SegmentSummary(*(_concatenated(parts) for parts in zip(*map(_parts, segments), strict=True)))


def _split(joined: SegmentSummary, lengths: Sequence[int]) -> list[SegmentSummary]:
    """What `_joined` put together."""
    parts = ([None] * len(lengths) if part is None else part.split(list(lengths)) for part in _parts(joined))
    return [SegmentSummary(*own) for own in zip(*parts, strict=True)]


def _parts(segment: SegmentSummary) -> tuple[Tensor | None, ...]:
    return segment.vectors, segment.ranks, segment.anchors


def _concatenated(parts: Sequence[Tensor | None]) -> Any:
    present = [part for part in parts if part is not None]
    return torch.cat(present) if present else None


def _saved(vectors: Tensor) -> bytes:
    buffer = io.BytesIO()
    torch.save(vectors, buffer)
    return base64.b64encode(buffer.getvalue())
