"""The client of an autocompressor server: `from autocompressor import Client`. It needs httpx, not torch."""

from autocompressor.client import AsyncClient, Client
from autocompressor.results import (
    AutocompressorError,
    Chunk,
    Compressed,
    Generation,
    Progress,
    Ranked,
    Ranking,
    Score,
    Scores,
    StoredSummary,
    Summary,
    SummaryPage,
    Usage,
)

__all__ = [
    "AsyncClient",
    "AutocompressorError",
    "Chunk",
    "Client",
    "Compressed",
    "Generation",
    "Progress",
    "Ranked",
    "Ranking",
    "Score",
    "Scores",
    "StoredSummary",
    "Summary",
    "SummaryPage",
    "Usage",
]
