"""What a file of a summary says, checked as if a request had said it."""

from collections.abc import Sequence

import torch

from model.compressors import SegmentSummary
from server.core import chain
from server.errors import InvalidRequest
from server.limits import MAX_METADATA, MAX_METADATA_NAME, MAX_METADATA_VALUE
from server.store.codec import Manifest
from server.text import encodable


def require_given(manifest: Manifest) -> None:
    """Refuse metadata and a parent that `POST /compress` would not take."""
    if len(manifest.metadata) > MAX_METADATA:
        raise InvalidRequest(
            f"the file has {len(manifest.metadata)} entries of metadata, and the limit is {MAX_METADATA}",
            param="metadata",
        )
    for name, value in manifest.metadata.items():
        _require_text(name, "a name in the file's metadata", MAX_METADATA_NAME)
        _require_text(value, "a value in the file's metadata", MAX_METADATA_VALUE)
    if manifest.parent is not None and not chain.is_key(manifest.parent):
        raise InvalidRequest("the file's parent is no summary id", param="parent")


def require_keys(summary_id: str, manifest: Manifest, *, reads_alone: bool) -> None:
    """Refuse keys of segments that cannot be those of the summary."""
    keys = manifest.segments
    if not keys or not all(map(chain.is_key, keys)):
        raise InvalidRequest("the file names no segments, or some by what is no key", param="id")
    if reads_alone:  # the signature alone binds the id
        return
    if keys[-1] != summary_id:
        raise InvalidRequest(f"the file is of summary {keys[-1]!r}, not of {summary_id!r}", param="id")
    if len(set(keys)) < len(keys):
        raise InvalidRequest("the file names a segment twice, and no chain comes by one again", param="id")
    if manifest.parent is not None and manifest.parent not in keys[:-1]:
        raise InvalidRequest("the file's parent is none of its segments", param="parent")


def require_equal(keys: Sequence[str], parts: Sequence[SegmentSummary]) -> None:
    """Refuse one key for segments that differ; those that are read alone may stand at several places."""
    first: dict[str, SegmentSummary] = {}
    for key, part in zip(keys, parts, strict=True):
        if not _are_equal(first.setdefault(key, part), part):
            raise InvalidRequest("the file has one key for segments that differ", param="id")


def _are_equal(one: SegmentSummary, other: SegmentSummary) -> bool:
    if one is other:
        return True
    pairs = ((one.vectors, other.vectors), (one.ranks, other.ranks), (one.anchors, other.anchors))
    return all(a is b or (a is not None and b is not None and torch.equal(a, b)) for a, b in pairs)


def _require_text(text: str, what: str, limit: int) -> None:
    if len(text) > limit:
        raise InvalidRequest(f"{what} has {len(text)} characters, and the limit is {limit}", param="metadata")
    try:
        encodable(text)
    except ValueError:
        raise InvalidRequest(f"{what} has an unpaired surrogate, which is no character", param="metadata") from None
