"""Files of documents to files of vectors, without Ray: blocks, rows that are none, parts, what is not done twice."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from server.bulk.blocks import Block, cut, find
from server.bulk.making import Job, Maker
from server.bulk.parts import REJECTED, Parts
from server.bulk.records import Columns, Record, Rejected, read
from tests.server.conftest import Serve
from tests.tiny import TEXT

COLUMNS = Columns(metadata=("shelf",))
BAD = [
    ("{broken", "not JSON"),
    ("[1]", "not a JSON object but a list"),
    ('{"id": 1}', "there is no 'text'"),
    ('{"text": 3}', "'text' is a int, not a text"),
    ('{"text": ""}', "'text' is empty"),
    ('{"text": "\\ud800"}', "unpaired surrogate"),
    ('{"text": "a", "id": [1]}', "'id' is a list"),
]


def job(output: Path, **given: Any) -> Job:
    return Job(
        **{"output": str(output), "columns": COLUMNS, "keep_text": True, "documents_together": 1, "store": None} | given
    )


def written(path: Path, texts: list[str]) -> Path:
    lines = [json.dumps({"id": index, "text": text, "shelf": "A"}) for index, text in enumerate(texts)]
    path.write_text("\n".join(lines))  # the last without its end
    return path


def test_blocks_hold_every_row_once_in_either_format(tmp_path: Path) -> None:
    rows = [{"id": str(index), "text": f"text {index}", "shelf": None} for index in range(7)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "b.parquet", row_group_size=2)
    (tmp_path / "notes.txt").write_text("not input")
    files = find([str(tmp_path), str(tmp_path / "*.jsonl")])
    assert files == [str(tmp_path / "a.jsonl"), str(tmp_path / "b.parquet")]
    for file in files:
        blocks = cut(file, 3, "text")
        assert [(block.first_row, block.num_rows) for block in blocks] == [(0, 3), (3, 3), (6, 1)]
        assert len({block.part for block in blocks}) == 3
        found = [each for block in blocks for each in read(block, COLUMNS)]
        assert found == [Record(index + 1, str(index), f"text {index}") for index in range(7)]
    with pytest.raises(ValueError, match="has no column 'body', but 'id', 'text', 'shelf'"):
        cut(files[1], 3, "body")
    with pytest.raises(ValueError, match="does not exist"):
        find([str(tmp_path / "absent.jsonl")])


def test_blocks_of_a_file_that_grew_are_the_same_but_for_the_last(tmp_path: Path) -> None:
    file = written(tmp_path / "a.jsonl", ["one", "two", "three"])
    before = cut(str(file), 2, "text")
    file.write_text(file.read_text() + '\n{"text": "four"}\n')
    after = cut(str(file), 2, "text")
    assert after[0] == before[0]
    assert (after[1].part, after[1].digest != before[1].digest) == (before[1].part, True)


def test_rows_that_are_no_documents_are_told_with_their_line(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(
        b'\xef\xbb\xbf{"text": "good"}\n\n' + "\n".join(line for line, _ in BAD).encode() + b'\n{"text": "\xff"}'
    )
    first, *others, last = [each for block in cut(str(file), 4, "text") for each in read(block, COLUMNS)]
    assert isinstance(first, Record)
    assert (first.row, len(first.id)) == (1, 64)  # the text's hash
    for row, ((_, reason), rejected) in enumerate(zip(BAD, others, strict=True), start=3):
        assert isinstance(rejected, Rejected)
        assert rejected.row == row
        assert reason in rejected.reason
    assert isinstance(last, Rejected)
    assert "utf-8" in last.reason


async def test_a_part_has_what_the_server_stores(serve: Serve, tmp_path: Path) -> None:
    texts = [TEXT[:90], TEXT, TEXT[:90], TEXT * 20]
    (block,) = cut(str(written(tmp_path / "a.jsonl", texts)), 10, "text")
    output = tmp_path / "out"
    Parts(str(output)).prepare([block])
    async with serve() as client:
        made = await Maker(client.core, job(output)).make(block)
        assert (made.num_rows, made.num_rejected, made.was_there) == (3, 1, False)
        rows = pq.read_table(output / block.part).to_pylist()
        assert [row["source_id"] for row in rows] == ["0", "1", "2"]
        assert (await client.get(f"/summaries/{rows[0]['id']}")).status_code == 404  # nothing was left behind
        for row, text in zip(rows, texts, strict=False):
            reply = (await client.post("/compress", json={"text": text})).json()
            assert {name: reply[name] for name in ("id", "tokens", "segments", "vectors")} == {
                "id": row["id"],
                "tokens": row["tokens"],
                "segments": row["segments"],
                "vectors": row["num_vectors"],
            }
            summaries = client.services.summaries.of(client.core.tenant)
            stored = await summaries.vectors(await summaries.get(row["id"], param="id"))
            vectors = torch.frombuffer(bytearray(row["vectors"]), dtype=torch.bfloat16)
            assert torch.equal(vectors.view(row["num_vectors"], row["width"]), stored.to(torch.bfloat16))
            assert len(row["token_ids"]) == row["tokens"]
            assert row["metadata"] == [("shelf", "A")]
    Parts(str(output)).write_rejected([block])
    (rejected,) = map(json.loads, (output / REJECTED).read_text().splitlines())
    assert (rejected["source"], rejected["row"]) == (block.source, 4)
    assert "tokens" in rejected["reason"]


async def test_a_part_that_is_there_is_made_again_only_where_it_is_damaged_or_of_another_job(
    serve: Serve, tmp_path: Path
) -> None:
    (block,) = cut(str(written(tmp_path / "a.jsonl", [TEXT[:80], TEXT[:120]])), 10, "text")
    output = tmp_path / "out"
    Parts(str(output)).prepare([block])
    part = output / block.part

    async with serve() as client:

        async def was_there(**given: Any) -> bool:
            return (await Maker(client.core, job(output, **given)).make(block)).was_there

        assert not await was_there()
        whole = part.read_bytes()
        assert await was_there(documents_together=2)
        place = whole.index(pq.read_table(part)["vectors"][1].as_py()) + 1
        for damaged in (whole[:-1], whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :], b""):
            part.write_bytes(damaged)
            assert not await was_there()
            assert part.read_bytes() == whole
        assert not await was_there(keep_text=False, store="kept")
        (row, _) = pq.read_table(part).to_pylist()
        assert row["token_ids"] is None
        assert (await client.get(f"/summaries/{row['id']}")).status_code == 200


def test_output_that_is_being_made_anew_is_not_finished(tmp_path: Path) -> None:
    """Input had grown: the parts of a run that was then cut off were indexed as if they were all, by the old file."""
    blocks = cut(str(written(tmp_path / "in.jsonl", [])), 3, "text")
    parts = Parts(str(tmp_path / "out"))
    parts.prepare(blocks)
    parts.write_rejected(blocks)
    assert parts.finished() == []
    parts.prepare(cut(str(written(tmp_path / "in.jsonl", ["a", "b"])), 3, "text"))
    with pytest.raises(ValueError, match="or the run has not ended"):
        parts.finished()


def test_a_folder_with_parts_of_other_input_is_refused(tmp_path: Path) -> None:
    block = Block("/in/a.jsonl", 0, 1, 0, 10, "")
    parts = Parts(str(tmp_path))
    (tmp_path / f"{block.part}.1.unfinished").touch()
    (tmp_path / block.part).touch()
    parts.prepare([block])
    assert [path.name for path in tmp_path.iterdir()] == [block.part]
    with pytest.raises(ValueError, match="of other input or of another --block-rows"):
        parts.prepare([])
