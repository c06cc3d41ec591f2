"""Whose documents: part of all their ids, given with each call."""

import hashlib
import hmac
from dataclasses import dataclass, field

from server.core import chain


@dataclass(frozen=True)
class Tenant:
    """Equal documents of tenants with other salts have other ids, and each sees its own list.

    `name`: by which the server's own tenant finds it again; unlike the salt it may be stored.
    """

    salt: str = ""
    name: str = field(default="", compare=False)

    def named(self, name: str) -> "Tenant":
        """The tenant of this name, whichever key it is reached by; of an empty one this tenant itself."""
        return Tenant(f"{self.salt}\0{name}", name) if name else self

    def of_key(self, key: str) -> "Tenant":
        """The tenant of whoever sends this key to a server that checks none: its name is the key's SHA-256."""
        return self.named(hashlib.sha256(key.encode()).hexdigest())

    def root(self, fingerprint: str) -> str:
        """The key before any segment, for the model of this fingerprint."""
        return chain.root_key(fingerprint, self.salt)

    def owner(self, fingerprint: str) -> str:
        """Whose list a summary is in, as manifests name it; tells nothing of the salt."""
        return chain.derived_key(self.root(fingerprint), "tenant")

    @property
    def account(self) -> str:
        """The space of the store that all of this is in, whichever model made it; tells nothing of the salt."""
        return chain.derived_key(self.root(""), "account")

    def export_key(self, fingerprint: str, secret: bytes) -> bytes:
        """What signs exported summaries: nobody without the secret can make it, though the salt be empty."""
        return hmac.digest(secret, chain.derived_key(self.root(fingerprint), "export").encode(), "sha256")

    def sealing_key(self, secret: bytes) -> bytes:
        """What seals this tenant's compacted conversations, 32 bytes: the same whichever model they are of."""
        return hmac.digest(secret, b"compaction\0" + self.salt.encode(), "sha256")
