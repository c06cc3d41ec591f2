"""Records from files, folders and data sets: their text or what is wrong with them, under their own numbers."""

import gzip
import hashlib
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pytest
import zstandard
from pyarrow import parquet

from training.data.sources import HubFiles, LocalFile, Record, Source, domain_of, find_files

DOCUMENTS = ["One fog.", "Two\nlines, Größe 東京", " spaces stay ", "null \0 byte"]
WINDOW_LOG = 27


def jsonl(documents: list[str]) -> bytes:
    return b"".join(json.dumps({"text": document, "source": "a"}).encode() + b"\n" for document in documents)


def long_distance(data: bytes) -> bytes:
    """A zstd frame whose reader must keep 128 MiB, as `zstd --long` makes them."""
    parameters = zstandard.ZstdCompressionParameters(window_log=WINDOW_LOG, hash_log=6, chain_log=6)
    # a stream: of data whose length is known, the frame asks for no more than that
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return compressor.compress(data) + compressor.flush()


def texts(file: LocalFile | HubFiles) -> list[str | None]:
    return [record.text for record in file.records()]


# --- JSONL


@pytest.mark.parametrize(
    ("name", "compress"),
    [
        ("a.jsonl", bytes),
        ("a.jsonl.gz", gzip.compress),
        ("a.jsonl.zst", zstandard.compress),
        ("a.jsonl.zst", long_distance),
    ],
)
def test_documents_come_back_from_each_kind_of_file(
    name: str, compress: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(compress(jsonl(DOCUMENTS)))
    records = list(LocalFile(tmp_path / name).records())
    assert records == [Record(number, document, "") for number, document in enumerate(DOCUMENTS, start=1)]


def test_the_long_distance_frame_is_one() -> None:
    assert zstandard.get_frame_parameters(long_distance(b"x")).window_size == 2**WINDOW_LOG


@pytest.mark.parametrize(("name", "compress"), [("a.jsonl.gz", gzip.compress), ("a.jsonl.zst", zstandard.compress)])
def test_files_that_were_compressed_in_pieces(name: str, compress: Callable[[bytes], bytes], tmp_path: Path) -> None:
    """Compressed files may be joined end to end: what `cat` makes of two is a valid file of both."""
    (tmp_path / name).write_bytes(compress(jsonl(DOCUMENTS[:2])) + compress(jsonl(DOCUMENTS[2:])))
    assert texts(LocalFile(tmp_path / name)) == DOCUMENTS


@pytest.mark.parametrize(("name", "compress"), [("a.jsonl.gz", gzip.compress), ("a.jsonl.zst", zstandard.compress)])
def test_a_file_that_was_cut_short(name: str, compress: Callable[[bytes], bytes], tmp_path: Path) -> None:
    """zstandard's reader took what was left of a half-copied archive for a whole file."""
    (tmp_path / name).write_bytes(compress(jsonl(DOCUMENTS))[:-6])
    with pytest.raises((EOFError, OSError), match=r"ended before the end|Truncated"):
        list(LocalFile(tmp_path / name).records())


def test_a_last_line_without_an_end_and_windows_line_ends(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(jsonl(DOCUMENTS).replace(b"\n", b"\r\n").removesuffix(b"\r\n"))
    assert texts(LocalFile(file)) == DOCUMENTS


def test_blank_lines_are_no_records_but_count_as_lines(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\n" + jsonl(DOCUMENTS[:1]) + b" \r\n\n" + jsonl(DOCUMENTS[1:2]) + b"\n")
    records = LocalFile(tmp_path / "a.jsonl").records()
    assert [(record.number, record.text) for record in records] == [(2, DOCUMENTS[0]), (5, DOCUMENTS[1])]


def test_a_file_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").touch()
    assert texts(LocalFile(tmp_path / "a.jsonl")) == []


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        ("no JSON", b'{"text": "cut sho'),
        ("no JSON", b'{"text": "x", "deep": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
        ("no JSON", b'{"id": ' + b"7" * 5000 + b', "text": "x"}'),
        ("no text", b'{"title": "x"}'),
        ("no text", b"null"),
        ("no text", b"3"),
        ("no text", b'"text"'),
        ("no text", b'["text"]'),
        ("no text", b'{"text": null}'),
        ("no text", b'{"text": 3}'),
        ("no text", b'{"text": ["x"]}'),
        ("an empty text", b'{"text": ""}'),
        ("an empty text", b'{"text": " \\n "}'),
        ("bytes that are not UTF-8", b'{"text": "\xff\xfe\xfa"}'),
        ("an unpaired surrogate", b'{"text": "half \\ud83d of a sign"}'),
        ("an unpaired surrogate", b'{"text": "\xed\xa0\xbd in bytes"}'),
    ],
    ids=lambda value: value[:24].decode("latin-1") if isinstance(value, bytes) else value,
)
def test_a_bad_record_says_what_is_wrong_and_ends_nothing(fault: str, line: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl(DOCUMENTS[:1]) + line + b"\n" + jsonl(DOCUMENTS[1:2]))
    assert list(LocalFile(tmp_path / "a.jsonl").records()) == [
        Record(1, DOCUMENTS[0], ""),
        Record(2, None, fault),
        Record(3, DOCUMENTS[1], ""),
    ]


def test_a_pair_of_surrogates_is_a_character(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "\\ud83d\\ude00"}')
    assert texts(LocalFile(tmp_path / "a.jsonl")) == ["😀"]


def test_records_are_read_as_they_are_asked_for(tmp_path: Path) -> None:
    """What comes before the damage is given out, so a file is not read whole first."""
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(jsonl(DOCUMENTS)) + gzip.compress(jsonl(DOCUMENTS))[:-6])
    assert next(LocalFile(tmp_path / "a.jsonl.gz").records()).text == DOCUMENTS[0]


def test_a_digest_is_of_the_bytes(tmp_path: Path) -> None:
    data = jsonl(DOCUMENTS) * 20_000  # more than one block of the reader
    (tmp_path / "a.jsonl").write_bytes(data)
    assert LocalFile(tmp_path / "a.jsonl").digest() == hashlib.sha256(data).hexdigest()


# --- Parquet


def parquet_file(path: Path, columns: dict[str, Any]) -> LocalFile:
    parquet.write_table(pa.table(columns), path)
    return LocalFile(path)


def test_documents_come_back_from_parquet(tmp_path: Path) -> None:
    many = [f"{document} {number}" for number in range(50) for document in DOCUMENTS]  # more than one batch of rows
    columns = {"id": range(len(many)), "text.raw": ["not this"] * len(many), "text": many}
    records = list(parquet_file(tmp_path / "a.parquet", columns).records())
    assert records == [Record(number, document, "") for number, document in enumerate(many, start=1)]


def test_parquet_without_texts(tmp_path: Path) -> None:
    file = parquet_file(tmp_path / "a.parquet", {"content": ["x", "y"]})
    assert list(file.records()) == [Record(1, None, "no text"), Record(2, None, "no text")]


@pytest.mark.parametrize("column", [pa.array([3]), pa.array([b"x"]), pa.array([["x"]]), pa.array([{"text": "x"}])])
def test_a_column_of_another_kind_has_no_text(column: pa.Array, tmp_path: Path) -> None:
    assert list(parquet_file(tmp_path / "a.parquet", {"text": column}).records()) == [Record(1, None, "no text")]


def test_null_and_empty_texts_in_parquet(tmp_path: Path) -> None:
    file = parquet_file(tmp_path / "a.parquet", {"text": ["x", None, " ", "y"]})
    assert list(file.records()) == [
        Record(1, "x", ""),
        Record(2, None, "no text"),
        Record(3, None, "an empty text"),
        Record(4, "y", ""),
    ]


def test_bytes_in_parquet_that_are_not_utf8(tmp_path: Path) -> None:
    data = pa.array([b"ab", b"\xff\xfe", b"cd"]).buffers()
    file = parquet_file(tmp_path / "a.parquet", {"text": pa.Array.from_buffers(pa.string(), 3, data)})
    assert list(file.records()) == [
        Record(1, "ab", ""),
        Record(2, None, "bytes that are not UTF-8"),
        Record(3, "cd", ""),
    ]


# --- folders


def names(files: list[Path]) -> list[str]:
    return [file.name for file in files]


def test_files_of_the_split_if_any_carry_it(tmp_path: Path) -> None:
    for name in ("b.train.jsonl.zst", "a.train.parquet", "a.test.jsonl", "notes.train.txt", "more.jsonl.gz"):
        (tmp_path / name).touch()
    assert names(find_files(tmp_path, "train")) == ["a.train.parquet", "b.train.jsonl.zst"]
    assert names(find_files(tmp_path, "test")) == ["a.test.jsonl"]


def test_all_files_where_no_name_has_a_split(tmp_path: Path) -> None:
    for name in ("c.parquet", "b.jsonl.zst", "a.jsonl", "d.jsonl.gz", "notes.txt", "training.csv"):
        (tmp_path / name).touch()
    expected = ["a.jsonl", "b.jsonl.zst", "c.parquet", "d.jsonl.gz"]
    assert names(find_files(tmp_path, "train")) == expected
    with pytest.raises(
        ValueError, match=r"has no file with `test\.` in its name"
    ):  # what was trained on is not held out
        find_files(tmp_path, "test")


def test_splits_as_the_hub_names_them(tmp_path: Path) -> None:
    for name in ("train-00000-of-00001.parquet", "validation-00000-of-00001.parquet", "test.jsonl", "trainer.jsonl"):
        (tmp_path / name).touch()
    assert names(find_files(tmp_path, "train")) == ["train-00000-of-00001.parquet"]
    assert names(find_files(tmp_path, "valid")) == ["validation-00000-of-00001.parquet"]
    assert names(find_files(tmp_path, "test")) == ["test.jsonl"]
    assert domain_of("train-00000-of-00001.parquet") == domain_of("test.jsonl") == "documents"
    assert domain_of("books.0.test.jsonl.zst") == domain_of("books.test.jsonl") == "books"
    assert domain_of("notes.jsonl") == "notes"


@pytest.mark.parametrize("other", ["test", "valid", "validation"])
def test_a_folder_of_other_splits_is_not_trained_on(other: str, tmp_path: Path) -> None:
    (tmp_path / f"a.{other}.jsonl").touch()
    (tmp_path / "b.jsonl").touch()
    with pytest.raises(ValueError, match=r"has no file with `train\.` in its name"):
        find_files(tmp_path, "train")


@pytest.mark.parametrize("path", [".", "nowhere", "notes.txt"])
def test_no_files(path: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    kinds = r"is no \.jsonl, \.jsonl\.gz, \.jsonl\.zst, \.parquet file"
    with pytest.raises(ValueError, match="there is no file or folder" if path == "nowhere" else kinds):
        find_files(tmp_path / path, "train")


def test_a_file_is_itself_whatever_its_split(tmp_path: Path) -> None:
    (tmp_path / "a.test.jsonl").touch()
    assert find_files(tmp_path / "a.test.jsonl", "train") == [tmp_path / "a.test.jsonl"]


# --- sources


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("/data/a.jsonl", Source("/data/a.jsonl")),
        ("/data/a.jsonl=2", Source("/data/a.jsonl", 2.0)),
        ("a=.5", Source("a", 0.5)),
        ("/data/language=en/a.jsonl", Source("/data/language=en/a.jsonl")),
        ("/data/language=en/a.jsonl=1e2", Source("/data/language=en/a.jsonl", 100.0)),
        ("/data/language=en/", Source("/data/language=en/")),
        ("/data/language=en=3", Source("/data/language=en", 3.0)),
        ("datasets:owner/name:config=3", Source("datasets:owner/name:config", 3.0)),
    ],
)
def test_a_source_is_a_path_and_a_weight(text: str, source: Source) -> None:
    assert Source.parse(text) == source


@pytest.mark.parametrize("weight", ["0", "-1", "nan", "inf", "", "much"])
def test_a_weight_that_is_none(weight: str) -> None:
    with pytest.raises(ValueError, match=f"the weight of a/b is '{weight}'; it must be a number above 0"):
        Source.parse(f"a/b={weight}")


def test_what_a_source_reads(tmp_path: Path) -> None:
    (tmp_path / "b.train.jsonl").touch()
    (tmp_path / "a.train.parquet").touch()
    assert Source(str(tmp_path)).files("train") == [
        LocalFile(tmp_path / "a.train.parquet"),
        LocalFile(tmp_path / "b.train.jsonl"),
    ]
    assert [file.name for file in Source(str(tmp_path)).files("train")] == ["a.train.parquet", "b.train.jsonl"]
    assert Source("datasets:owner/name:config").files("train") == [HubFiles("owner/name:config", "train")]


# --- the library datasets


@pytest.fixture
def data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A local folder in the hub's layout; whoever connects to anything fails."""

    def refuse(*args: Any) -> NoReturn:
        raise AssertionError(f"a test connects to {args[1:]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "train.jsonl").write_bytes(jsonl(DOCUMENTS[:2]) + b'{"text": null}\n' + jsonl(DOCUMENTS[2:]))
    (folder / "test.jsonl").write_bytes(jsonl(["of the test"]))
    return folder


def test_a_folder_is_streamed_by_split(data_set: Path) -> None:
    (file,) = Source(f"datasets:{data_set}").files("train")
    assert file.name == f"datasets:{data_set}"
    assert list(file.records()) == [
        Record(1, DOCUMENTS[0], ""),
        Record(2, DOCUMENTS[1], ""),
        Record(3, None, "no text"),
        Record(4, DOCUMENTS[2], ""),
        Record(5, DOCUMENTS[3], ""),
    ]
    assert texts(HubFiles(str(data_set), "test")) == ["of the test"]
    assert texts(HubFiles(str(data_set), "train", max_documents=2)) == DOCUMENTS[:2]


def test_a_stream_s_digest_is_of_what_is_asked_for() -> None:
    asked = [
        HubFiles("a", "train"),
        HubFiles("a:config", "train"),
        HubFiles("a", "test"),
        HubFiles("a", "train", max_documents=5),
    ]
    assert len({file.digest() for file in asked}) == 4
    assert HubFiles("a", "train").digest() == asked[0].digest()


@pytest.mark.parametrize(("path", "expected"), [("owner/name", ("owner/name", None)), ("a/b:c", ("a/b", "c"))])
def test_a_configuration_is_asked_for_by_name(
    path: str, expected: tuple[str, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*args: str | None, split: str, streaming: bool) -> list[dict[str, str]]:
        assert (args, split, streaming) == (expected, "train", True)
        return [{"text": "x"}, {"content": "y"}]

    monkeypatch.setattr("training.data.sources.load_dataset", load)
    assert list(HubFiles(path, "train").records()) == [Record(1, "x", ""), Record(2, None, "no text")]
