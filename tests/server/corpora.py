"""Small corpora: what bulk compression writes, without Ray, and an index of it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from server.bulk.blocks import cut
from server.bulk.indexing import Wanted, build
from server.bulk.making import Job, Maker
from server.bulk.parts import Parts
from server.bulk.records import Columns
from server.core.core import Core

SHIPS = ("barque", "cutter", "dinghy", "frigate", "galleon", "ketch", "lugger", "packet", "schooner", "yawl")
TEXTS = [
    f"On day {day} the keeper saw a {ship} pass the rock. He wrote one line: wind from the north, no fog."
    for day, ship in enumerate(SHIPS)
]


async def compressed(core: Core, folder: Path, texts: Sequence[str] = TEXTS, **given: Any) -> Path:
    """The folder of parts, of three rows each."""
    source = folder / "passages.jsonl"
    source.write_text(
        "\n".join(json.dumps({"id": f"p{n}", "text": text, "shelf": "A"}) for n, text in enumerate(texts))
    )
    output = folder / "vectors"
    job = Job(
        **{"output": str(output), "columns": Columns(metadata=("shelf",)), "keep_text": True}
        | {"documents_together": 1, "store": None}
        | given
    )
    blocks = cut(str(source), 3, "text")
    parts = Parts(str(output))
    parts.prepare(blocks)
    for block in blocks:
        await Maker(core, job).make(block)
    parts.write_rejected(blocks)
    return output


async def indexed(core: Core, folder: Path, wanted: Wanted | None = None, **given: Any) -> Path:
    """The folder of an index over passages that this core compressed."""
    index = folder / "index"
    build([str(await compressed(core, folder, **given))], index, wanted or Wanted())
    return index
