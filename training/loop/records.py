"""The figures of every step: a line of JSON each, and TensorBoard."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from torch.utils.tensorboard import SummaryWriter

from model.atomic import written_aside


@dataclass(frozen=True)
class Record:
    """One step.

    Attributes:
        loss: mean over the batch, nats a token. segment_losses: of each segment in the order of the sequence.
        learning_rate: AdamW's. gradient_norm: before clipping. tokens_per_second: of all devices together.
    """

    step: int
    loss: float
    segment_losses: list[float]
    learning_rate: float
    gradient_norm: float
    tokens_per_second: float


class Records:
    """Appends records while `opened`; the steps from the first on, left by a run that was cut off, are dropped."""

    def __init__(self, path: Path, tensorboard: Path) -> None:
        self.path, self.tensorboard = path, tensorboard
        self._file: TextIO | None = None
        self._writer: SummaryWriter | None = None

    @contextmanager
    def opened(self, first_step: int, *, is_main: bool) -> Iterator[None]:
        if not is_main:
            yield
            return
        kept = [record for record in read_records(self.path) if record.step < first_step]
        with written_aside(self.path) as aside:
            aside.write_text("".join(map(_line, kept)))
        with self.path.open("a") as file, SummaryWriter(str(self.tensorboard), purge_step=first_step) as writer:
            self._file, self._writer = file, writer
            yield
        self._file = self._writer = None

    def add(self, record: Record) -> None:
        if self._file is None or self._writer is None:
            return
        self._file.write(_line(record))
        self._file.flush()
        self._writer.add_scalar("loss", record.loss, record.step)
        if len(record.segment_losses) > 1:
            by_segment = {f"{index:02}": loss for index, loss in enumerate(record.segment_losses)}
            for name, loss in by_segment.items():
                self._writer.add_scalar(f"loss by segment/{name}", loss, record.step)
        self._writer.add_scalar("learning rate", record.learning_rate, record.step)
        self._writer.add_scalar("gradient norm", record.gradient_norm, record.step)
        self._writer.add_scalar("tokens per second", record.tokens_per_second, record.step)


def _line(record: Record) -> str:
    return json.dumps(asdict(record)) + "\n"


def read_records(path: Path) -> list[Record]:
    """What was recorded there, but for a last line that was cut off; nothing where there is no file."""
    if not path.is_file():
        return []
    lines = path.read_text().split("\n")[:-1]
    return [Record(**json.loads(line)) for line in lines]
