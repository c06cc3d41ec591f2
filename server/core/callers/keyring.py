"""API keys as they are kept: a name, a hash, and what whoever has the key may do.

Hashes are plain SHA-256: keys are 256 random bits that the server draws, which no dictionary has, so that a slow hash
(scrypt) would add nothing but its 50 ms to each request.
"""

import hashlib
import hmac
import secrets
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, StringConstraints, ValidationError

PREFIX = "ac-"  # so that scanners for leaked secrets, and people, know one when they see it
KEY_BYTES = 32

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")]


class ApiKey(BaseModel):
    """One entry.

    Attributes:
        tenant: whose documents are seen; None is a tenant of the key's name, several keys may share one, and an empty
            one is the tenant of a server without keys.
        requests_per_minute, tokens_per_minute, concurrent_requests: None for no limit.
        stored_bytes: that all summaries, texts and responses of the tenant may have; the same for all its keys.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: Name
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    tenant: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{0,64}$")] | None = None
    admin: bool = False
    requests_per_minute: PositiveInt | None = None
    tokens_per_minute: PositiveInt | None = None
    concurrent_requests: PositiveInt | None = None
    stored_bytes: PositiveInt | None = None

    @property
    def tenant_name(self) -> str:
        return self.name if self.tenant is None else self.tenant


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    key: list[ApiKey] = Field(min_length=1)


@dataclass(frozen=True)
class Keyring:
    """All keys that are let in."""

    keys: tuple[ApiKey, ...]

    def find(self, key: str) -> ApiKey | None:
        """The entry of a key; how long it takes tells nothing of which entry that is, or how near the key was."""
        digest, found = digest_of(key), None
        for entry in self.keys:
            if hmac.compare_digest(entry.sha256, digest):
                found = entry
        return found

    def named(self, name: str) -> ApiKey | None:
        return next((entry for entry in self.keys if entry.name == name), None)


def new_key() -> str:
    """A key that nobody has seen, 43 characters of base64 after a prefix."""
    return PREFIX + secrets.token_urlsafe(KEY_BYTES)


def digest_of(key: str) -> str:
    """By which a key is known, 64 hexadecimal digits."""
    return hashlib.sha256(key.encode()).hexdigest()


def read_keyring(source: str) -> Keyring:
    """Keys from the setting `api_keys`: the path of a TOML file, or where it has a bracket the file's text itself.

    Raises:
        OSError: the file cannot be read. ValueError: it is no list of keys; the words never hold what stands in it.
    """
    text = source if "[" in source else _read(source)
    try:
        given = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"api_keys is not TOML: {_place(error)}") from None
    try:
        keys = tuple(_File.model_validate(given).key)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise ValueError(f"api_keys: {_field(first['loc'])}: {first['msg']}") from None
    for what in ("name", "sha256"):
        _require_different(keys, what)
    _require_one_quota(keys)
    return Keyring(keys)


def _read(path: str) -> str:
    if path.startswith(PREFIX):  # an error would repeat it
        raise ValueError("api_keys is a key itself; it wants the path of a file of keys, or the file's text")
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise OSError(f"api_keys: {path} cannot be read: {error.strerror}") from error


def _field(location: tuple[int | str, ...]) -> str:
    """Which field is wrong; one that an entry does not have may be the key itself."""
    known = {"key", *ApiKey.model_fields}
    return ".".join(str(part) if isinstance(part, int) or part in known else "an unknown field" for part in location)


def _place(error: tomllib.TOMLDecodeError) -> str:
    """Where a file is wrong, without the words of it that Python's own message may show."""
    _, _, place = str(error).rpartition("(")
    return place.removesuffix(")") or "it ends too early"


def _require_one_quota(keys: Sequence[ApiKey]) -> None:
    first: dict[str, ApiKey] = {}
    for key in keys:
        other = first.setdefault(key.tenant_name, key)
        if other.stored_bytes != key.stored_bytes:
            raise ValueError(
                f"api_keys: the keys {other.name!r} and {key.name!r} are of one tenant, {key.tenant_name!r}, and have "
                f"different stored_bytes: {other.stored_bytes or 'none'} and {key.stored_bytes or 'none'}"
            )


def _require_different(keys: Sequence[ApiKey], what: str) -> None:
    seen: dict[str, str] = {}
    for key in keys:
        value = getattr(key, what)
        if value in seen:
            raise ValueError(f"api_keys: the keys {seen[value]!r} and {key.name!r} have the same {what}")
        seen[value] = key.name
