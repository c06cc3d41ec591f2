"""A bulk run from its input's names to its counts, with progress on standard error."""

from collections.abc import Sequence
from dataclasses import dataclass

from tqdm import tqdm

from server.bulk.blocks import cut, find
from server.bulk.making import Job
from server.bulk.parts import Parts
from server.bulk.records import Columns
from server.bulk.running import CannotRun
from server.bulk.running import run as run_on_ray
from server.settings import Settings

__all__ = ["CannotRun", "Columns", "Job", "Totals", "run"]


@dataclass
class Totals:
    """Documents by what became of them, those of parts that were there already apart; and parts."""

    num_new: int = 0
    num_there: int = 0
    num_rejected: int = 0
    num_parts: int = 0


def run(sources: Sequence[str], job: Job, settings: Settings, *, rows: int, num_actors: int | None) -> Totals:
    """Make all parts of these files, then what was rejected of them.

    Raises:
        ValueError, OSError: the input or the output is not as it must be. CannotRun: as `running.run`.
    """
    blocks = [block for source in find(sources) for block in cut(source, rows, job.columns.text)]
    parts, totals = Parts(job.output), Totals(num_parts=len(blocks))
    parts.prepare(blocks)
    if blocks:
        with tqdm(total=sum(block.num_rows for block in blocks), desc="compressing", unit=" documents") as progress:
            for made in run_on_ray(blocks, settings, job, num_actors):
                totals.num_rejected += made.num_rejected
                if made.was_there:
                    totals.num_there += made.num_rows
                    progress.initial += made.num_input_rows  # no part of what is done in a second
                else:
                    totals.num_new += made.num_rows
                progress.update(made.num_input_rows)
    parts.write_rejected(blocks)
    return totals
