"""The documents that are put into servers, and what an undisturbed server made of each of them alone."""

import base64
import json
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

WORDS = ("the", "keeper", "wrote", "one", "line", "a", "day", "wind", "from", "north", "eleven", "ships", "no", "fog")
GREEDY = {"prompt": "Who?", "max_tokens": 8, "temperature": 0, "ignore_eos": True}
MOST_DIFFERENCE = 1e-3  # of float32 vectors whose size is about 1: rounding by what else is in a batch is 1e-6


def text_of(number: int) -> str:
    """A text of 3 to 8 segments of 16 tokens, which no other number shares one with."""
    draw = random.Random(number)
    return f"{number} " + " ".join(draw.choices(WORDS, k=draw.randint(12, 32)))


def body_of(number: int) -> dict[str, Any]:
    """What compresses it; of every third the text is kept."""
    return {"text": text_of(number), "keep_text": number % 3 == 0}


def vectors_of(exported: bytes) -> np.ndarray:
    """The float32 vectors of an exported file (https://github.com/huggingface/safetensors#format), flat."""
    length = int.from_bytes(exported[:8], "little")
    start, end = json.loads(exported[8 : 8 + length])["vectors"]["data_offsets"]
    return np.frombuffer(exported[8 + length + start : 8 + length + end], np.float32)


@dataclass(frozen=True)
class Expected:
    """Of one document: its id, the greedy answer to a question on it, and its vectors in base64."""

    id: str
    answer: str
    vectors: str

    def is_like(self, exported: bytes) -> bool:
        """Whether an exported file has these vectors."""
        own, other = np.frombuffer(base64.b64decode(self.vectors), np.float32), vectors_of(exported)
        return own.shape == other.shape and bool(np.abs(own - other).max() <= MOST_DIFFERENCE)


def made_alone(client: httpx.Client, num_documents: int, say: Callable[[str], None]) -> list[Expected]:
    """Each document by a server that does nothing else."""
    expected = []
    for number in range(num_documents):
        made = client.post("/compress", json=body_of(number)).raise_for_status().json()["id"]
        answer = client.post("/generate", json={"summary_ids": [made], **GREEDY}).raise_for_status().json()["text"]
        exported = client.get(f"/summaries/{made}", params={"format": "safetensors"}).raise_for_status().content
        expected.append(Expected(made, answer, base64.b64encode(vectors_of(exported).tobytes()).decode()))
        if (number + 1) % 100 == 0:
            say(f"{number + 1} of {num_documents} documents made alone")
    return expected


def save(expected: list[Expected], path: Path) -> None:
    path.write_text(json.dumps([asdict(one) for one in expected]))


def load(path: Path) -> list[Expected]:
    return [Expected(**fields) for fields in json.loads(path.read_text())]
