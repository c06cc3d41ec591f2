"""What an AutoCompressor has beyond its base model's own configuration."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

FORMAT_VERSION = 1


@dataclass(frozen=True)
class SummaryConfig:
    """The published names (arXiv 2305.14788, section 3) plus the segment length to serve with.

    Attributes:
        summary_length: summary vectors a segment yields (the paper's kappa); 0 is the plain language model.
        accumulate_summary: True is an AutoCompressor, whose soft prompt grows with each segment; False is an RMT,
            where the newest segment's vectors replace it.
        segment_length: tokens a segment has when a document is compressed for serving.
    """

    summary_length: int
    accumulate_summary: bool
    segment_length: int

    def __post_init__(self) -> None:
        if self.summary_length < 0:
            raise ValueError(f"summary_length is {self.summary_length}; it must be 0 or more")
        if self.segment_length < 1:
            raise ValueError(f"segment_length is {self.segment_length}; it must be 1 or more")

    def write(self, path: Path) -> None:
        path.write_text(json.dumps({"format_version": FORMAT_VERSION, **asdict(self)}, indent=2) + "\n")

    @classmethod
    def read(cls, path: Path) -> "SummaryConfig":
        """Read what `write` wrote; ValueError where a field is missing, unknown or of another format version."""
        stored = json.loads(path.read_text())
        if not isinstance(stored, dict):
            raise ValueError(f"{path} is not a JSON object")
        version = stored.pop("format_version", None)
        if version != FORMAT_VERSION:
            raise ValueError(f"{path} has format_version {version}; this version reads {FORMAT_VERSION}")
        expected = {field.name for field in fields(cls)}
        if set(stored) != expected:
            raise ValueError(f"{path} has the fields {sorted(stored)}; expected {sorted(expected)}")
        return cls(**stored)
