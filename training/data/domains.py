"""Documents by domain, as their files' names tell."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from training.data.documents import TokenisedDocuments, load_documents
from training.data.sources import LocalFile, domain_of, find_files, split_of


def documents_by_domain(
    data: Path, split: str, tokenizer: PreTrainedTokenizerBase, cache: Path
) -> dict[str, TokenisedDocuments]:
    """Tokenised documents by domain, which a file's name has before its split."""
    files = find_files(data, split)
    by_domain: dict[str, list[TokenisedDocuments]] = {}
    for file, documents in zip(files, load_documents(map(LocalFile, files), tokenizer, cache), strict=True):
        by_domain.setdefault(domain_of(file.name), []).append(documents)
    return {domain: _joined(parts) for domain, parts in by_domain.items()}


def _joined(parts: Sequence[TokenisedDocuments]) -> TokenisedDocuments:
    if len(parts) == 1:
        return parts[0]
    lengths = np.concatenate([np.diff(part.starts) for part in parts])
    return TokenisedDocuments(np.concatenate([part.tokens for part in parts]), np.append(0, lengths.cumsum()))


def has_training_file(data: Path, domain: str) -> bool:
    folder = data if data.is_dir() else data.parent
    return any(split_of(path.name) == "train" and domain_of(path.name) == domain for path in folder.iterdir())
