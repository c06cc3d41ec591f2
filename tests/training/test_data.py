"""Documents from files: all that are good, none that is bad, and windows that stay within one."""

import gzip
import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zstandard

from tests.tiny import TEXT, tiny_tokenizer
from training.data import TokenisedDocuments, find_files, read_documents, tokenise

DOCUMENTS = ["One fog.", "Two\nlines, Größe 東京", " spaces stay "]


def jsonl(documents: list[str]) -> bytes:
    return b"".join(json.dumps({"text": document, "source": "a"}).encode() + b"\n" for document in documents)


# --- files


@pytest.mark.parametrize(
    ("name", "compress"),
    [
        ("a.jsonl", bytes),
        ("a.jsonl.gz", gzip.compress),
        ("a.jsonl.zst", zstandard.compress),
    ],
)
def test_documents_come_back_from_each_kind_of_file(
    name: str, compress: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(compress(jsonl(DOCUMENTS)))
    assert list(read_documents([tmp_path / name])) == DOCUMENTS


@pytest.mark.parametrize(("name", "compress"), [("a.jsonl.gz", gzip.compress), ("a.jsonl.zst", zstandard.compress)])
def test_files_that_were_compressed_in_pieces(name: str, compress: Callable[[bytes], bytes], tmp_path: Path) -> None:
    """Compressed files may be joined end to end: what `cat` makes of two is a valid file of both."""
    (tmp_path / name).write_bytes(compress(jsonl(DOCUMENTS[:2])) + compress(jsonl(DOCUMENTS[2:])))
    assert list(read_documents([tmp_path / name])) == DOCUMENTS


def test_files_are_read_in_the_order_given(tmp_path: Path) -> None:
    files = [tmp_path / "b.jsonl", tmp_path / "a.jsonl"]
    for file, document in zip(files, DOCUMENTS, strict=False):
        file.write_bytes(jsonl([document]))
    assert list(read_documents(files)) == DOCUMENTS[:2]


def test_a_last_line_without_an_end_and_windows_line_ends(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(jsonl(DOCUMENTS).replace(b"\n", b"\r\n").removesuffix(b"\r\n"))
    assert list(read_documents([file])) == DOCUMENTS


BAD = {
    "no JSON": b'{"text": "cut sho',
    "no text": b'{"title": "x"}',
    "bytes that are not UTF-8": b'{"text": "\xff\xfe\xfa"}',
    "an empty text": b'{"text": " \\n "}',
}


@pytest.mark.parametrize(("fault", "record"), BAD.items())
def test_a_bad_record_is_named_and_left_out(
    fault: str, record: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(jsonl(DOCUMENTS[:1]) + record + b"\n\n" + record + b"\n" + jsonl(DOCUMENTS[1:]))
    with caplog.at_level(logging.WARNING, logger="training.data"):
        assert list(read_documents([file])) == DOCUMENTS
    assert [message for message in caplog.messages if "line" in message] == [
        f"a.jsonl line 2: {fault}",
        f"a.jsonl line 4: {fault}",
    ]
    assert caplog.messages[-1] == f"a.jsonl: left out 2 with {fault}"


@pytest.mark.parametrize(
    "record",
    [b"null", b"3", b'"text"', b"[]", b'{"text": null}', b'{"text": 3}', b'{"text": ["x"]}'],
)
def test_a_record_of_another_shape_has_no_text(record: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(record + b"\n" + jsonl(DOCUMENTS))
    assert list(read_documents([file])) == DOCUMENTS
    assert caplog.messages[-1] == "a.jsonl: left out 1 with no text"


@pytest.mark.parametrize(
    "record",
    [b'{"text": "x", "deep": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", b'{"id": ' + b"7" * 5000 + b', "text": 1}'],
    ids=["nested-too-deep", "number-too-long"],
)
def test_a_record_that_the_parser_gives_up_on(record: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(record + b"\n" + jsonl(DOCUMENTS))
    assert list(read_documents([file])) == DOCUMENTS
    assert "left out 1" in caplog.messages[-1]


def test_each_kind_of_fault_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b"\n".join([*BAD.values(), BAD["no text"]]) + b"\n" + jsonl(DOCUMENTS))
    assert list(read_documents([file])) == DOCUMENTS
    assert caplog.messages[-1] == (
        "a.jsonl: left out 1 with no JSON, 2 with no text, 1 with bytes that are not UTF-8, 1 with an empty text"
    )


def test_good_files_are_not_spoken_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl(DOCUMENTS) + b"\n\n")
    assert list(read_documents([tmp_path / "a.jsonl"])) == DOCUMENTS
    assert not caplog.messages


# --- finding


def names(files: list[Path]) -> list[str]:
    return [file.name for file in files]


def test_files_of_the_split_if_any_carry_it(tmp_path: Path) -> None:
    for name in ("b.train.jsonl.zst", "a.train.jsonl", "a.test.jsonl", "notes.train.txt", "train.jsonl.gz"):
        (tmp_path / name).touch()
    assert names(find_files(tmp_path, "train")) == ["a.train.jsonl", "b.train.jsonl.zst"]
    assert names(find_files(tmp_path, "test")) == ["a.test.jsonl"]
    assert names(find_files(tmp_path, "validation")) == [
        "a.test.jsonl",
        "a.train.jsonl",
        "b.train.jsonl.zst",
        "train.jsonl.gz",
    ]


def test_a_file_is_itself(tmp_path: Path) -> None:
    (tmp_path / "anything.txt").touch()
    assert find_files(tmp_path / "anything.txt", "train") == [tmp_path / "anything.txt"]


@pytest.mark.parametrize("folder", [".", "nowhere"])
def test_no_files(folder: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"has no file ending in \.jsonl, \.jsonl\.gz, \.jsonl\.zst"):
        find_files(tmp_path / folder, "train")


# --- tokens


def tokenised(documents: list[str]) -> TokenisedDocuments:
    return tokenise(documents, tiny_tokenizer(), description="tokenising")


def test_tokens_are_the_documents_end_to_end() -> None:
    documents = [*DOCUMENTS, TEXT] * 5  # more than one batch of the tokenizer
    result = tokenised(documents)
    assert result.tokens.dtype == np.uint16
    assert len(result.starts) == len(documents) + 1
    assert (result.starts[0], result.starts[-1]) == (0, len(result.tokens))
    for document, start, end in zip(documents, result.starts, result.starts[1:], strict=False):
        ids = result.tokens[start:end].tolist()
        assert ids[0] == tiny_tokenizer().eos_token_id
        assert tiny_tokenizer().decode(ids[1:]) == document


def test_a_document_longer_than_the_model_is_kept_whole() -> None:
    assert len(tokenised([TEXT * 20]).tokens) > 10 * tiny_tokenizer().model_max_length


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


def test_no_documents() -> None:
    with pytest.raises(ValueError, match="no documents"):
        tokenised([])


def test_a_vocabulary_beyond_16_bits() -> None:
    class Large:
        def __len__(self) -> int:
            return 2**16 + 1

    with pytest.raises(ValueError, match="65537 entries; at most 65536"):
        tokenise(DOCUMENTS, Large(), description="tokenising")


def test_half_a_character_is_not_fatal(tmp_path: Path) -> None:
    """JSON may hold one half of a surrogate pair, which no encoding can write."""
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"text": "half \\ud83d of a sign"}\n' + jsonl(DOCUMENTS))
    result = tokenised(list(read_documents([file])))
    assert len(result.starts) - 1 in (len(DOCUMENTS), len(DOCUMENTS) + 1)


def test_each_document_begins_with_the_start_token() -> None:
    documents = tokenise(["a b", "c"], tiny_tokenizer(), description="tokenising")
    assert [int(documents.tokens[start]) for start in documents.starts[:-1]] == [0, 0]
    assert list(documents.tokens).count(0) == 2
