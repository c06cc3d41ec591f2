"""What an admin is told."""

from pydantic import BaseModel, Field


class KeyUsage(BaseModel):
    name: str
    tenant: str
    admin: bool
    revoked: bool
    requests: int = Field(description="That were let in.")
    tokens: int = Field(description="That the engine read or wrote for them.")
    refused: int = Field(description="Requests that were over a limit of the key.")
    running: int = Field(description="Requests that are being answered now.")
    stored_bytes: int = Field(description="Of all that the key's tenant has stored, whichever server it was by.")
    stored_bytes_limit: int | None


class UsageResponse(BaseModel):
    """Since the server was started, of this process alone; what is stored, of all."""

    since: int = Field(description="When that was, in seconds since the epoch.")
    unauthorized: int = Field(description="Requests without a key that is known.")
    keys: list[KeyUsage]


class RevokedResponse(BaseModel):
    name: str
    revoked: bool
