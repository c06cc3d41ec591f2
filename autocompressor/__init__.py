"""The client of an autocompressor server: `from autocompressor import Client`. It needs httpx, not torch."""

from autocompressor.client import AsyncClient, Client
from autocompressor.results import (
    Answer,
    AnswerChunk,
    AutocompressorError,
    Chunk,
    Compressed,
    Generation,
    Hit,
    Progress,
    Ranked,
    Ranking,
    Score,
    Scores,
    Search,
    StoredSummary,
    Summary,
    SummaryPage,
    Usage,
)

__all__ = [
    "Answer",
    "AnswerChunk",
    "AsyncClient",
    "AutocompressorError",
    "Chunk",
    "Client",
    "Compressed",
    "Generation",
    "Hit",
    "Progress",
    "Ranked",
    "Ranking",
    "Score",
    "Scores",
    "Search",
    "StoredSummary",
    "Summary",
    "SummaryPage",
    "Usage",
]
