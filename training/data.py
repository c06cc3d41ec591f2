"""Documents from JSONL files, tokenised once into one long array."""

import gzip
import io
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import zstandard
from numpy.typing import NDArray
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
MAX_WINDOW_BYTES = 2**27  # long-distance zstd archives need more than the library's default of 2**23


def find_files(path: Path, split: str) -> list[Path]:
    """The JSONL files at `path`: itself, or those of a folder that carry the split in their name, or else all.

    Raises:
        ValueError: none is there.
    """
    if path.is_file():
        return [path]
    found = sorted(file for file in path.glob("*") if file.name.endswith(SUFFIXES))
    files = [file for file in found if f".{split}." in file.name] or found
    if not files:
        raise ValueError(f"{path} has no file ending in {', '.join(SUFFIXES)}")
    return files


def read_documents(files: Iterable[Path]) -> Iterator[str]:
    """Yield the `text` of each record; records without one are counted and named in a warning, never fatal."""
    for file in files:
        bad: Counter[str] = Counter()
        with _open_lines(file) as lines:
            for number, line in enumerate(lines, start=1):
                text, fault = _text_of(line)
                if text is not None:
                    yield text
                elif fault:
                    bad[fault] += 1
                    logger.warning("%s line %d: %s", file.name, number, fault)
        if bad:
            logger.warning("%s: left out %s", file.name, ", ".join(f"{n} with {fault}" for fault, n in bad.items()))


def _text_of(line: bytes) -> tuple[str | None, str]:
    """A record's text, or None and what is wrong with the record; nothing is wrong with a blank line."""
    if not line.strip():
        return None, ""
    try:
        record = json.loads(line)
    except UnicodeDecodeError:
        return None, "bytes that are not UTF-8"
    except (ValueError, RecursionError):  # bad syntax, a number of too many digits, too many brackets
        return None, "no JSON"
    text = record.get("text") if isinstance(record, dict) else None
    if not isinstance(text, str):
        return None, "no text"
    if not text.strip():
        return None, "an empty text"
    return (text, "") if _is_encodable(text) else (None, "an unpaired surrogate")


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def _open_lines(file: Path) -> Iterator[Iterable[bytes]]:
    with file.open("rb") as raw:
        if file.name.endswith(".zst"):
            reader = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).stream_reader(raw)
            yield io.BufferedReader(reader)
        elif file.name.endswith(".gz"):
            with gzip.open(raw) as decompressed:
                yield decompressed
        else:
            yield raw


@dataclass(frozen=True)
class TokenisedDocuments:
    """Documents end to end: `tokens` (N,), and `starts` (documents + 1,), where each begins, N last."""

    tokens: NDArray[np.uint16]
    starts: NDArray[np.int64]

    def windows(self, length: int) -> NDArray[np.int64]:
        """The starts of all consecutive runs of `length` tokens that lie within one document."""
        runs = [np.arange(start, end - length + 1, length) for start, end in pairwise(self.starts)]
        return np.concatenate(runs) if runs else np.zeros(0, dtype=np.int64)


def tokenise(documents: Iterable[str], tokenizer: PreTrainedTokenizerBase, *, description: str) -> TokenisedDocuments:
    """Tokenise, the tokenizer's start token before each document; ValueError for none, or a vocabulary over 16 bits."""
    if len(tokenizer) > 2**16:
        raise ValueError(f"the vocabulary has {len(tokenizer)} entries; at most {2**16} are stored in 16 bits")
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    parts = [
        np.array([*start, *ids], dtype=np.uint16)
        for batch in _batches(tqdm(documents, desc=description, unit=" documents"), size=16)
        for ids in tokenizer(batch, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    ]
    if not parts:
        raise ValueError("there are no documents to tokenise")
    starts = np.cumsum([0] + [len(part) for part in parts])
    return TokenisedDocuments(np.concatenate(parts), starts)


def _batches(documents: Iterable[str], *, size: int) -> Iterator[Sequence[str]]:
    batch: list[str] = []
    for document in documents:
        batch.append(document)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
