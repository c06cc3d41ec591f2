"""A labelled task for `--suite icl` from the corpus itself: short passages of its documents, by domain."""

import argparse
import json
from pathlib import Path

import numpy as np

from training.data.sources import LocalFile, domain_of, find_files

TEMPLATE = "Passage: {text}\nKind: {label}"
WORDS = 40  # of a passage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a folder of `DOMAIN.SPLIT.jsonl.zst`")
    parser.add_argument("--split", default="test", help="which files of the folder")
    parser.add_argument("--passages", type=int, default=60, help="of a domain")
    parser.add_argument("--out", type=Path, required=True, help="the JSONL file")
    options = parser.parse_args()
    random = np.random.default_rng(0)
    lines: list[dict[str, str]] = [{"template": TEMPLATE}]
    for file in find_files(options.data, options.split):
        documents = [record.text.split() for record in LocalFile(file).records() if record.text]
        for number in range(options.passages):
            words = documents[number % len(documents)]
            start = int(random.integers(max(1, len(words) - WORDS)))
            lines.append({"text": " ".join(words[start : start + WORDS]), "label": domain_of(file.name)})
    options.out.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main()
