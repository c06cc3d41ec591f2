"""Text files to JSONL files for training: a tenth of them each for `valid` and `test`, the rest for `train`."""

import argparse
import json
import sys
from pathlib import Path

SUFFIXES = (".txt", ".md", ".rst")


def split_of(index: int) -> str:
    return {0: "test", 1: "valid"}.get(index % 10, "train")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("texts", type=Path, help=f"a folder, searched for {', '.join(SUFFIXES)}")
    parser.add_argument("out", type=Path, help="a folder for documents.train.jsonl and the other two")
    options = parser.parse_args()
    files = sorted(path for path in options.texts.rglob("*") if path.suffix in SUFFIXES)
    if not files:
        sys.exit(f"{options.texts} has no {', '.join(SUFFIXES)} files")
    options.out.mkdir(parents=True, exist_ok=True)
    lines: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
    for index, path in enumerate(files):
        record = {"id": str(path.relative_to(options.texts)), "text": path.read_text(errors="replace")}
        lines[split_of(index) if len(files) > 2 else "train"].append(json.dumps(record))
    for split, records in lines.items():
        if not records:
            continue
        (options.out / f"documents.{split}.jsonl").write_text("".join(f"{record}\n" for record in records))
        print(f"{split}: {len(records)} documents")


if __name__ == "__main__":
    main()
