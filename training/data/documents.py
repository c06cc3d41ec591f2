"""Documents tokenised once into a memory-mapped file, under a cache keyed by content."""

import copy
import hashlib
import json
import logging
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from model.atomic import written_once
from training.data.sources import Files, Record

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
TOKENS, STARTS, META = "tokens.bin", "starts.npy", "meta.json"
BATCH_DOCUMENTS = 16
NAMED_RECORDS = 10  # bad records named in the log, of each kind of fault; the cache's meta.json names all


@dataclass(frozen=True)
class TokenisedDocuments:
    """Documents end to end.

    Attributes:
        tokens: (N,), uint16 or uint32, on disk. starts: (documents + 1,), where each document begins, N last.
        name: of the file they are from.
    """

    tokens: NDArray[np.uint16] | NDArray[np.uint32]
    starts: NDArray[np.int64]
    name: str = ""

    @property
    def num_documents(self) -> int:
        return len(self.starts) - 1

    def windows(self, length: int) -> NDArray[np.int64]:
        """The starts of all consecutive runs of `length` tokens that lie within one document."""
        runs = [np.arange(start, end - length + 1, length) for start, end in pairwise(self.starts)]
        return np.concatenate(runs) if runs else np.zeros(0, dtype=np.int64)

    def run(self, start: int, length: int) -> NDArray[np.int64]:
        """The `length` tokens from `start` on."""
        return self.tokens[start : start + length].astype(np.int64)


def load_documents(files: Iterable[Files], tokenizer: PreTrainedTokenizerBase, cache: Path) -> list[TokenisedDocuments]:
    """Tokenise each file, or map what the cache has of it.

    A file's place in the cache is a hash of its bytes, the tokenizer and the format. Records without a usable text are
    left out, counted and named in a warning, each time they are met.

    Raises:
        ValueError: no document in any of them, or a file that is cut off or damaged.
    """
    identity = tokenizer_identity(tokenizer)
    found = []
    for file in files:
        key = hashlib.sha256(f"{FORMAT_VERSION} {identity} {file.digest()}".encode()).hexdigest()[:32]
        directory = cache / key
        if not directory.is_dir():
            with written_once(directory) as aside:
                try:
                    _tokenise(file, tokenizer, aside)
                except (EOFError, OSError, zlib.error, pa.ArrowException) as error:
                    raise ValueError(f"{file.name} cannot be read to its end: {error}") from error
        found.append(_map(directory, file.name))
    if not any(documents.num_documents for documents in found):
        raise ValueError(f"there are no documents in {', '.join(documents.name for documents in found)}")
    return found


def tokenizer_identity(tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of what decides a text's token ids, the start token before it included."""
    backend = copy.deepcopy(getattr(tokenizer, "backend_tokenizer", None))
    if backend is None:
        state = json.dumps(tokenizer.get_vocab(), sort_keys=True)
    else:
        backend.no_truncation()  # some are saved with these, and transformers takes them off in the first call
        backend.no_padding()
        state = backend.to_str()
    return hashlib.sha256(f"{tokenizer.bos_token_id} {state}".encode()).hexdigest()


def _tokenise(file: Files, tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Write the documents of a file, the tokenizer's start token before each; memory does not grow with the file."""
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    dtype = np.uint16 if len(tokenizer) <= 2**16 else np.uint32
    ends, num_bytes, bad = [0], 0, list[Record]()
    with (directory / TOKENS).open("wb") as out:
        for texts in _batches(tqdm(file.records(), desc=f"tokenising {file.name}", unit=" documents"), bad):
            num_bytes += sum(len(text.encode()) for text in texts)
            encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
            for ids in encoded["input_ids"]:
                np.array([*start, *ids], dtype=dtype).tofile(out)
                ends.append(ends[-1] + len(start) + len(ids))
    np.save(directory / STARTS, np.array(ends, dtype=np.int64))
    meta = {
        "name": file.name,
        "dtype": np.dtype(dtype).name,
        "documents": len(ends) - 1,
        "tokens": ends[-1],
        "bytes": num_bytes,
        "bad_records": [{"record": record.number, "fault": record.fault} for record in bad],
    }
    (directory / META).write_text(json.dumps(meta, indent=1) + "\n")


def _map(directory: Path, name: str) -> TokenisedDocuments:
    meta = json.loads((directory / META).read_text())
    _warn_of(meta["bad_records"], name)
    starts = np.load(directory / STARTS)
    tokens = (
        np.memmap(directory / TOKENS, dtype=meta["dtype"], mode="r") if meta["tokens"] else np.zeros(0, meta["dtype"])
    )
    return TokenisedDocuments(tokens, starts, name)


def _warn_of(bad: list[dict[str, str | int]], name: str) -> None:
    counts = Counter(record["fault"] for record in bad)
    for fault, count in counts.items():
        numbers = [str(record["record"]) for record in bad if record["fault"] == fault]
        named = ", ".join(numbers[:NAMED_RECORDS]) + (", ..." if count > NAMED_RECORDS else "")
        logger.warning("%s: left out %d with %s: record %s", name, count, fault, named)


def _batches(records: Iterable[Record], bad: list[Record]) -> Iterator[list[str]]:
    """Texts a few at a time; what has none is put into `bad`."""
    batch: list[str] = []
    for record in records:
        if record.text is None:
            bad.append(record)
            continue
        batch.append(record.text)
        if len(batch) == BATCH_DOCUMENTS:
            yield batch
            batch = []
    if batch:
        yield batch
