"""The bytes of a record: summary vectors as safetensors, manifests and texts as JSON, each with a checksum.

Decoding takes any bytes, runs nothing that they say, and raises nothing but CorruptRecord and FingerprintMismatch.
"""

from server.store.codec.manifest import Manifest, decode_manifest, encode_manifest
from server.store.codec.record import CorruptRecord, FingerprintMismatch
from server.store.codec.token_ids import decode_text, encode_text
from server.store.codec.vectors import decode_notes, decode_segment, encode_segment

__all__ = [
    "CorruptRecord",
    "FingerprintMismatch",
    "Manifest",
    "decode_manifest",
    "decode_notes",
    "decode_segment",
    "decode_text",
    "encode_manifest",
    "encode_segment",
    "encode_text",
]
