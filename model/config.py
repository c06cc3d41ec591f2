"""What an AutoCompressor has beyond its base model's own configuration."""

import json
import math
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

FORMAT_VERSION = 1


@dataclass(frozen=True)
class SummaryConfig:
    """The published names (arXiv 2305.14788, section 3) plus the segment length to serve with.

    Attributes:
        summary_length: summary vectors a segment yields (the paper's kappa); 0 is the plain language model.
        accumulate_summary: True is an AutoCompressor, whose soft prompt grows with each segment; False is an RMT,
            where the newest segment's vectors replace it.
        segment_length: tokens a segment has when a document is compressed for serving.
        compressor: the name of what writes the vectors, in `model.compressors`.
        reads_alone: a segment is read without what stands before it: its vectors are the same in every document.
        layers: numbers of the base's layers, from 1, whose states are read for the vectors; none for summary tokens.
    """

    summary_length: int
    accumulate_summary: bool
    segment_length: int
    compressor: str = "summary_tokens"
    reads_alone: bool = False
    layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.summary_length < 0:
            raise ValueError(f"summary_length is {self.summary_length}; it must be 0 or more")
        if self.segment_length < 1:
            raise ValueError(f"segment_length is {self.segment_length}; it must be 1 or more")

        if self.reads_alone and not self.accumulate_summary:
            raise ValueError("segments that are read alone leave nothing of those before them unless they accumulate")

    def num_vectors(self, num_tokens: int) -> int:
        """How many vectors a segment of so many tokens gives: any, or of anchored ones as many in proportion."""
        if self.compressor == "summary_tokens":
            return self.summary_length
        return min(num_tokens, math.ceil(num_tokens * self.summary_length / self.segment_length))

    @property
    def facts(self) -> dict[str, Any]:
        """The fields, without those that are as they were before there was more than one compressor."""
        defaults = {field.name: field.default for field in fields(self)}
        return {name: value for name, value in asdict(self).items() if value != defaults[name]}

    def write(self, path: Path) -> None:
        path.write_text(json.dumps({"format_version": FORMAT_VERSION, **self.facts}, indent=2) + "\n")

    @classmethod
    def read(cls, path: Path) -> "SummaryConfig":
        """Read what `write` wrote; ValueError where a field is missing, unknown or of another format version."""
        stored = json.loads(path.read_text())
        if not isinstance(stored, dict):
            raise ValueError(f"{path} is not a JSON object")
        version = stored.pop("format_version", None)
        if version != FORMAT_VERSION:
            raise ValueError(f"{path} has format_version {version}; this version reads {FORMAT_VERSION}")
        known = {field.name for field in fields(cls)}
        needed = {field.name for field in fields(cls) if field.default is MISSING}
        if not needed <= set(stored) <= known:
            raise ValueError(f"{path} has the fields {sorted(stored)}; expected {sorted(needed)}, and may have others")
        return cls(**{**stored, "layers": tuple(stored.get("layers", ()))})
