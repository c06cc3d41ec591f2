"""Tokenised documents: all that are good, once, streamed to a file that is there whole or not at all."""

import copy
import json
import logging
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import BatchEncoding, PreTrainedTokenizerFast

from tests.tiny import END_OF_TEXT_ID, TEXT, tiny_tokenizer
from training.data.documents import BATCH_DOCUMENTS, TokenisedDocuments, load_documents, tokenizer_identity
from training.data.sources import LocalFile, Record

DOCUMENTS = ["One fog.", "Two\nlines, Größe 東京", " spaces stay ", "null \0 byte"]
BAD = {
    "no JSON": b'{"text": "cut sho',
    "no text": b'{"title": "x"}',
    "bytes that are not UTF-8": b'{"text": "\xff\xfe\xfa"}',
    "an empty text": b'{"text": " \\n "}',
    "an unpaired surrogate": b'{"text": "half \\ud83d of a sign"}',
}


def jsonl(documents: list[str]) -> bytes:
    return b"".join(json.dumps({"text": document}).encode() + b"\n" for document in documents)


def local_file(path: Path, data: bytes) -> LocalFile:
    path.write_bytes(data)
    return LocalFile(path)


@dataclass
class Records:
    """A file of records that a test makes up."""

    records: Any
    name: str = "made up"

    def digest(self) -> str:
        return self.name


@dataclass
class Watched:
    """The tiny tokenizer, which keeps count of the texts it is given."""

    tokenizer: PreTrainedTokenizerFast = field(default_factory=tiny_tokenizer)
    num_texts: int = 0

    @property
    def bos_token_id(self) -> int | None:
        return self.tokenizer.bos_token_id

    @property
    def backend_tokenizer(self) -> Any:
        return self.tokenizer.backend_tokenizer

    def __len__(self) -> int:
        return len(self.tokenizer)

    def __call__(self, texts: list[str], **options: Any) -> BatchEncoding:
        self.num_texts += len(texts)
        return self.tokenizer(texts, **options)


def load(file: Any, cache: Path, tokenizer: Any = None) -> TokenisedDocuments:
    (documents,) = load_documents([file], tokenizer or tiny_tokenizer(), cache)
    return documents


def ids_of(documents: TokenisedDocuments) -> list[list[int]]:
    bounds = zip(documents.starts[:-1], documents.starts[1:], strict=True)
    return [documents.tokens[start:end].tolist() for start, end in bounds]


def texts_of(documents: TokenisedDocuments) -> list[str]:
    """Of documents that have a start token."""
    return [tiny_tokenizer().decode(ids[1:]) for ids in ids_of(documents)]


def meta_of(cache: Path) -> dict[str, Any]:
    """Of the only entry."""
    (path,) = cache.glob("*/meta.json")
    return json.loads(path.read_text())


# --- tokens


def test_tokens_are_the_documents_end_to_end(tmp_path: Path) -> None:
    written = [*DOCUMENTS, TEXT] * 8  # more than one batch of the tokenizer
    documents = load(local_file(tmp_path / "a.jsonl", jsonl(written)), tmp_path / "cache")
    assert (documents.starts[0], documents.starts[-1]) == (0, len(documents.tokens))
    assert documents.num_documents == len(written)
    assert texts_of(documents) == written
    assert documents.name == "a.jsonl"
    assert documents.run(3, 5).tolist() == documents.tokens[3:8].tolist()
    assert documents.run(3, 5).dtype == np.int64


def test_each_document_begins_with_the_start_token(tmp_path: Path) -> None:
    documents = load(local_file(tmp_path / "a.jsonl", jsonl(["a b", "c"])), tmp_path / "cache")
    assert [ids[0] for ids in ids_of(documents)] == [END_OF_TEXT_ID, END_OF_TEXT_ID]
    assert documents.tokens.tolist().count(END_OF_TEXT_ID) == 2


def test_a_tokenizer_without_a_start_token(tmp_path: Path) -> None:
    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.bos_token = None
    documents = load(local_file(tmp_path / "a.jsonl", jsonl(["a b", "c"])), tmp_path / "cache", tokenizer)
    assert [tokenizer.decode(ids) for ids in ids_of(documents)] == ["a b", "c"]


def test_a_document_longer_than_the_model_is_kept_whole(tmp_path: Path) -> None:
    documents = load(local_file(tmp_path / "a.jsonl", jsonl([TEXT * 20])), tmp_path / "cache")
    assert len(documents.tokens) > 10 * tiny_tokenizer().model_max_length
    assert texts_of(documents) == [TEXT * 20]


@pytest.mark.parametrize(("size", "dtype"), [(2**16, "uint16"), (2**16 + 1, "uint32"), (2**18, "uint32")])
def test_a_token_takes_the_bytes_it_needs(size: int, dtype: str, tmp_path: Path) -> None:
    class Large(Watched):
        def __len__(self) -> int:
            return size

        def __call__(self, texts: list[str], **options: Any) -> BatchEncoding:
            return BatchEncoding({"input_ids": [[size - 1, 5] for _ in texts]})

    documents = load(local_file(tmp_path / "a.jsonl", jsonl(DOCUMENTS[:2])), tmp_path / "cache", Large())
    assert documents.tokens.dtype == dtype
    assert ids_of(documents) == [[END_OF_TEXT_ID, size - 1, 5]] * 2


def test_several_files_stay_apart_and_in_order(tmp_path: Path) -> None:
    files = [local_file(tmp_path / f"{name}.jsonl", jsonl([name, name * 2])) for name in "cab"]
    found = load_documents(files, tiny_tokenizer(), tmp_path / "cache")
    assert [documents.name for documents in found] == ["c.jsonl", "a.jsonl", "b.jsonl"]
    assert [texts_of(documents) for documents in found] == [["c", "cc"], ["a", "aa"], ["b", "bb"]]


# --- windows


def test_windows_never_cross_documents() -> None:
    starts = np.array([0, 10, 13, 20, 31])
    documents = TokenisedDocuments(np.arange(31, dtype=np.uint16), starts)
    assert documents.windows(5).tolist() == [0, 5, 13, 20, 25]
    assert documents.windows(10).tolist() == [0, 20]
    assert documents.windows(11).tolist() == [20]
    assert documents.windows(12).tolist() == []


def test_windows_of_random_documents_do_not_overlap() -> None:
    lengths = np.random.default_rng(0).integers(1, 60, size=200)
    starts = np.concatenate([[0], lengths.cumsum()])
    documents = TokenisedDocuments(np.zeros(starts[-1], dtype=np.uint16), starts)
    windows = documents.windows(16)
    assert len(windows) == (lengths // 16).sum()
    assert np.diff(windows).min() >= 16
    first, last = (np.searchsorted(starts, position, side="right") for position in (windows, windows + 15))
    assert (first == last).all()


def test_windows_of_no_documents() -> None:
    assert TokenisedDocuments(np.zeros(0, dtype=np.uint16), np.zeros(1, dtype=np.int64)).windows(4).tolist() == []


# --- bad records


def test_bad_records_are_left_out_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = [*BAD.values(), b"", BAD["no text"]]
    file = local_file(tmp_path / "a.jsonl", jsonl(DOCUMENTS[:1]) + b"\n".join(lines) + b"\n" + jsonl(DOCUMENTS[1:]))
    assert texts_of(load(file, tmp_path / "cache")) == DOCUMENTS
    said = [
        "a.jsonl: left out 1 with no JSON: record 2",
        "a.jsonl: left out 2 with no text: record 3, 8",
        "a.jsonl: left out 1 with bytes that are not UTF-8: record 4",
        "a.jsonl: left out 1 with an empty text: record 5",
        "a.jsonl: left out 1 with an unpaired surrogate: record 6",
    ]
    assert caplog.messages == said
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    numbered = [*enumerate(BAD, start=2), (8, "no text")]
    meta = meta_of(tmp_path / "cache")
    assert meta["bad_records"] == [{"record": number, "fault": fault} for number, fault in numbered]
    assert (meta["documents"], meta["name"]) == (len(DOCUMENTS), "a.jsonl")
    assert meta["bytes"] == sum(len(document.encode()) for document in DOCUMENTS)

    caplog.clear()
    assert texts_of(load(file, tmp_path / "cache")) == DOCUMENTS
    assert caplog.messages == said, "the second time nothing is tokenised, and all the same something is left out"


def test_many_bad_records_are_named_in_meta_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = local_file(tmp_path / "a.jsonl", b"[]\n" * 11 + jsonl(DOCUMENTS))
    load(file, tmp_path / "cache")
    assert caplog.messages == ["a.jsonl: left out 11 with no text: record 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, ..."]
    assert [record["record"] for record in meta_of(tmp_path / "cache")["bad_records"]] == list(range(1, 12))


def test_good_files_are_not_spoken_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load(local_file(tmp_path / "a.jsonl", jsonl(DOCUMENTS) + b"\n\n"), tmp_path / "cache")
    assert not caplog.messages


@pytest.mark.parametrize("data", [b"", b"\n", b"\n".join(BAD.values())], ids=["nothing", "blank", "bad"])
def test_nothing_but_bad_records(data: bytes, tmp_path: Path) -> None:
    empty, good = local_file(tmp_path / "a.jsonl", data), local_file(tmp_path / "b.jsonl", jsonl(DOCUMENTS))
    for _ in range(2):  # tokenised, then found
        with pytest.raises(ValueError, match=r"there are no documents in a\.jsonl"):
            load(empty, tmp_path / "cache")
    beside, found = load_documents([empty, good], tiny_tokenizer(), tmp_path / "cache")
    assert (beside.num_documents, beside.windows(4).tolist()) == (0, [])
    assert texts_of(found) == DOCUMENTS


# --- the cache


def test_a_file_is_tokenised_once(tmp_path: Path) -> None:
    file = local_file(tmp_path / "a.jsonl", jsonl(DOCUMENTS))
    first, second = Watched(), Watched()
    documents = load(file, tmp_path / "cache", first)
    again = load(file, tmp_path / "cache", second)
    assert (first.num_texts, second.num_texts) == (len(DOCUMENTS), 0)
    assert ids_of(again) == ids_of(documents)


def test_tokens_are_mapped_and_cannot_be_changed(tmp_path: Path) -> None:
    documents = load(local_file(tmp_path / "a.jsonl", jsonl(DOCUMENTS)), tmp_path / "cache")
    assert isinstance(documents.tokens, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        documents.tokens[0] = 1


def test_a_changed_file_is_tokenised_anew(tmp_path: Path) -> None:
    load(local_file(tmp_path / "a.jsonl", jsonl(DOCUMENTS)), tmp_path / "cache")
    changed = load(local_file(tmp_path / "a.jsonl", jsonl(DOCUMENTS[::-1])), tmp_path / "cache")
    assert texts_of(changed) == DOCUMENTS[::-1]


def test_a_renamed_file_is_found_under_its_new_name(tmp_path: Path) -> None:
    load(local_file(tmp_path / "a.jsonl", jsonl(DOCUMENTS)), tmp_path / "cache")
    tokenizer = Watched()
    renamed = load(local_file(tmp_path / "b.jsonl", jsonl(DOCUMENTS)), tmp_path / "cache", tokenizer)
    assert (renamed.name, tokenizer.num_texts) == ("b.jsonl", 0)


def test_another_tokenizer_has_an_entry_of_its_own(tmp_path: Path) -> None:
    file = local_file(tmp_path / "a.jsonl", jsonl(DOCUMENTS))
    unstarted = copy.deepcopy(tiny_tokenizer())
    unstarted.bos_token = None
    tokenizers = [tiny_tokenizer(), tiny_tokenizer(300), unstarted]
    found = [load(file, tmp_path / "cache", tokenizer) for tokenizer in tokenizers]
    assert len(list((tmp_path / "cache").iterdir())) == len({tokenizer_identity(one) for one in tokenizers}) == 3
    for documents, tokenizer in zip(found, tokenizers, strict=True):
        ids = ids_of(documents)[1]
        assert ids[1 if tokenizer.bos_token else 0 :] == tokenizer(DOCUMENTS[1])["input_ids"]


def test_a_tokenizer_saved_with_truncation_is_the_same_after_its_first_call(tmp_path: Path) -> None:
    """The first call took truncation and padding off, so the second file had another key than in the next run."""
    files = [local_file(tmp_path / f"{name}.jsonl", jsonl([TEXT, name])) for name in "ab"]

    def truncating() -> Watched:
        tokenizer = copy.deepcopy(tiny_tokenizer())
        tokenizer.backend_tokenizer.enable_truncation(5)
        tokenizer.backend_tokenizer.enable_padding()
        return Watched(tokenizer)

    first, second = truncating(), truncating()
    found = load_documents(files, first, tmp_path / "cache")
    assert [texts_of(documents) for documents in found] == [[TEXT, "a"], [TEXT, "b"]]
    load_documents(files, second, tmp_path / "cache")
    load_documents(files[::-1], first, tmp_path / "cache")
    assert (first.num_texts, second.num_texts) == (4, 0)
    assert first.backend_tokenizer.truncation is None, "tokenizing did not change it: the test is about nothing"
    assert second.backend_tokenizer.truncation is not None, "asking for an identity changed the tokenizer"


# --- memory and interruptions


class Text(str):
    """A text whose life can be watched."""


def test_texts_are_streamed(tmp_path: Path) -> None:
    tokenizer = Watched()
    living = weakref.WeakSet[Text]()
    num_documents = 20 * BATCH_DOCUMENTS

    def records() -> Iterator[Record]:
        for number in range(num_documents):
            text = Text(f"document {number}")
            living.add(text)
            assert number - tokenizer.num_texts < BATCH_DOCUMENTS
            assert len(living) <= 2 * BATCH_DOCUMENTS + 1
            yield Record(number + 1, text, "")

    documents = load(Records(records), tmp_path / "cache", tokenizer)
    assert texts_of(documents) == [f"document {number}" for number in range(num_documents)]


def test_until_the_end_there_is_only_what_is_unfinished(tmp_path: Path) -> None:
    """Whenever the process is killed, no directory has the name of an entry."""
    cache = tmp_path / "cache"
    seen = []

    def records() -> Iterator[Record]:
        for number in range(1, 3 * BATCH_DOCUMENTS):
            seen.append([path.name for path in cache.iterdir()])
            yield Record(number, "x", "")

    load(Records(records), cache)
    (entry,) = cache.iterdir()
    assert len(seen) == 3 * BATCH_DOCUMENTS - 1
    for names in seen:
        assert [name.startswith(f"{entry.name}.") and name.endswith(".unfinished") for name in names] == [True]
    assert {path.name for path in entry.iterdir()} == {"tokens.bin", "starts.npy", "meta.json"}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_tokenisation_is_begun_again(error: type[BaseException], tmp_path: Path) -> None:
    cache = tmp_path / "cache"

    def records(num_good: int) -> Iterator[Record]:
        for number in range(1, 3 * BATCH_DOCUMENTS):
            if number > num_good:
                raise error
            yield Record(number, f"document {number}", "")

    with pytest.raises(error):
        load(Records(lambda: records(2 * BATCH_DOCUMENTS)), cache)
    assert list(cache.iterdir()) == []
    documents = load(Records(lambda: records(3 * BATCH_DOCUMENTS)), cache)
    assert texts_of(documents) == [f"document {number}" for number in range(1, 3 * BATCH_DOCUMENTS)]
    assert [path.suffix for path in cache.iterdir()] == [""]
