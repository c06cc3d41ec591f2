"""Keys of a server in tests."""

from typing import Any

from server.core.callers.keyring import digest_of

KEYS = {name: f"ac-{name}-{'0123456789abcdef' * 2}" for name in ("reader", "writer", "partner", "boss")}


def entry(name: str, **more: Any) -> str:
    """A key's entry, `more` of it as TOML has it."""
    fields = {"name": f'"{name}"', "sha256": f'"{digest_of(KEYS[name])}"', **more}
    return "\n".join(["[[key]]", *(f"{field} = {value}" for field, value in fields.items()), ""])


def bearer(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {KEYS[name]}"}


ALL = entry("reader") + entry("writer") + entry("partner", tenant='"writer"') + entry("boss", admin="true")
