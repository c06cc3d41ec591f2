"""Whose a manifest is: to others it is not there, whatever it says."""

from server.core.tenant import Tenant
from server.store.codec import CorruptRecord, FingerprintMismatch, Manifest, decode_manifest


def own_manifest(tenant: Tenant, data: bytes, *, fingerprint: str) -> Manifest | None:
    """A tenant's manifest; None where it is another tenant's.

    Raises:
        CorruptRecord: as `decode_manifest`. FingerprintMismatch: it is the tenant's, of another model.
    """
    try:
        manifest = decode_manifest(data, fingerprint=fingerprint)
    except FingerprintMismatch as error:
        if _is_of(tenant, decode_manifest(data, fingerprint=error.stored)):
            raise
        return None
    return manifest if _is_of(tenant, manifest) else None


def is_own(tenant: Tenant, data: bytes) -> bool:
    """Whether a manifest is the tenant's, of whichever model; a damaged one does not say whose."""
    try:
        return own_manifest(tenant, data, fingerprint="") is not None
    except (CorruptRecord, FingerprintMismatch):
        return True


def _is_of(tenant: Tenant, manifest: Manifest) -> bool:
    return manifest.tenant == tenant.owner(manifest.fingerprint)
