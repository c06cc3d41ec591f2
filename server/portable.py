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
from dataclasses import replace

import torch
from torch import Tensor

from server import chain
from server.errors import InvalidRequest, ModelMismatch, SummaryNotFound
from server.served_model import ServedModel
from server.store.codec import (
    CorruptRecord,
    FingerprintMismatch,
    Manifest,
    decode_manifest,
    decode_notes,
    decode_vectors,
    encode_manifest,
    encode_vectors,
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
        return await asyncio.to_thread(self._encoded, summary.manifest, torch.cat(segments))

    async def prompt_embeds(self, summary: Summary) -> bytes:
        """The soft prompt, (P, D), as vLLM takes it: base64 of what torch.save writes (docs.vllm.ai, prompt_embeds)."""
        vectors = await self._summaries.vectors(summary)
        return await asyncio.to_thread(_saved, vectors)

    async def take(self, summary_id: str, data: bytes, *, ttl_seconds: float | None) -> tuple[Summary, bool]:
        """Store an export under its id, and say whether it is new. Segments that are stored already are kept.

        Raises:
            InvalidRequest: not a whole export of this summary, or of another tenant. ModelMismatch: of another model.
        """
        manifest, vectors = await asyncio.to_thread(self._decoded, summary_id, data)
        found = await self._summaries.find(summary_id)
        if found is not None:
            await self._summaries.put(found[0], ttl_seconds=ttl_seconds)
            return found[0], False
        stored = await self._summaries.segments(manifest.segments)
        parts = vectors.split(self._model.config.summary_length)
        for key, part, known in zip(manifest.segments, parts, stored, strict=True):
            if known is None:
                await self._summaries.put_segment(key, part.clone(), ttl_seconds=IMPORTING_SECONDS)
        summary = Summary(summary_id, replace(manifest, created=time.time(), tenant=self._tenant))
        await self._summaries.put(summary, ttl_seconds=ttl_seconds)
        return summary, True

    def _encoded(self, manifest: Manifest, vectors: Tensor) -> bytes:
        text = encode_manifest(replace(manifest, tenant=None)).decode()
        notes = {"manifest": text, "signature": self._signature(text, vectors)}
        return encode_vectors(vectors, fingerprint=manifest.fingerprint, notes=notes)

    def _decoded(self, summary_id: str, data: bytes) -> tuple[Manifest, Tensor]:
        try:
            vectors = decode_vectors(data, fingerprint=self._model.fingerprint)
            notes = decode_notes(data)
            manifest = decode_manifest(notes.get("manifest", "").encode(), fingerprint=self._model.fingerprint)
        except CorruptRecord as error:
            raise InvalidRequest(f"the body is no exported summary: {error}") from error
        except FingerprintMismatch as error:
            raise ModelMismatch(f"the file is of another model than the one served: {error}") from error
        self._require_consistent(summary_id, manifest, vectors)
        if not hmac.compare_digest(notes.get("signature", ""), self._signature(notes["manifest"], vectors)):
            raise InvalidRequest("the file's signature differs: it is changed, or of a server with another tenant_salt")
        return manifest, vectors

    def _require_consistent(self, summary_id: str, manifest: Manifest, vectors: Tensor) -> None:
        num_segments, config = len(manifest.segments), self._model.config
        if not num_segments or manifest.segments[-1] != summary_id or not all(map(chain.is_key, manifest.segments)):
            named = manifest.segments[-1] if num_segments else "none"
            raise InvalidRequest(f"the file is of summary {named!r}, not of {summary_id!r}", param="id")
        expected = (num_segments * config.summary_length, self._model.hidden_size)
        if tuple(vectors.shape) != expected or manifest.vectors != self._model.num_vectors(num_segments):
            raise InvalidRequest(f"the file has vectors of shape {tuple(vectors.shape)}; {expected} are expected")
        if not all(0 < tokens <= config.segment_length for tokens in manifest.segment_tokens):
            raise InvalidRequest(f"a segment of the file has not between 1 and {config.segment_length} tokens")
        self._model.require_segments(manifest.segment_tokens)

    def _signature(self, manifest: str, vectors: Tensor) -> str:
        payload = vectors.contiguous().view(torch.uint8).numpy().tobytes()
        return hmac.new(self._key, manifest.encode() + b"\0" + payload, "sha256").hexdigest()


def _saved(vectors: Tensor) -> bytes:
    buffer = io.BytesIO()
    torch.save(vectors, buffer)
    return base64.b64encode(buffer.getvalue())
