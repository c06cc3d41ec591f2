"""A bulk run on Ray Data: blocks go to actors that have the model each, and what became of them comes back."""

import json
import logging
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
import ray.data
from anyio.from_thread import start_blocking_portal
from ray.exceptions import RayError

from server import log
from server.bulk.blocks import Block
from server.bulk.making import Job, Made, Maker
from server.core.build import open_core
from server.settings import Settings


class CannotRun(Exception):
    """The run cannot begin, or ended before its time; the message says why."""


class Actor:
    """A model in a process of its own; Ray starts another where it dies, and gives that its block again."""

    def __init__(self, settings: Settings, job: Job) -> None:
        log.configure("warning")
        opened = ExitStack()
        weakref.finalize(self, opened.close)  # at the process's end too
        if job.store is None:
            folder = opened.enter_context(tempfile.TemporaryDirectory(prefix="autocompressor-bulk-"))
            settings = settings.model_copy(update={"store": f"sqlite:{Path(folder) / 'summaries.sqlite3'}"})
        self._portal = opened.enter_context(start_blocking_portal())
        core = opened.enter_context(self._portal.wrap_async_context_manager(open_core(settings)))
        self._maker = Maker(core, job)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        made = self._portal.call(self._maker.make, Block(**json.loads(row["block"])))
        return asdict(made)


def run(blocks: Sequence[Block], settings: Settings, job: Job, num_actors: int | None) -> Iterator[Made]:
    """What becomes of each block, as it is done, in no order.

    Args:
        num_actors: None is one a GPU, or where there is none one a core.

    Raises:
        CannotRun: the cluster has no room for so many actors, or one of them failed other than by dying.
    """
    try:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (RayError, OSError, ValueError, RuntimeError) as error:
        raise CannotRun(f"Ray does not start: {error}") from error
    try:
        yield from _made(blocks, settings, job, num_actors)
    except RayError as error:
        raise CannotRun(_last_line(error)) from error
    finally:
        ray.shutdown()


def _made(blocks: Sequence[Block], settings: Settings, job: Job, num_actors: int | None) -> Iterator[Made]:
    there = ray.cluster_resources()
    num_gpus = 0 if settings.device == "cpu" else int(there.get("GPU", 0))
    room = num_gpus or int(there.get("CPU", 0))
    wanted = num_actors or min(room, len(blocks))
    if wanted > room:
        raise CannotRun(f"{wanted} actors need a {'GPU' if num_gpus else 'core'} each, and Ray has {room}")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.log_internal_stack_trace_to_stdout = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    rows = [{"block": json.dumps(asdict(block))} for block in blocks]
    made = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        Actor,
        fn_constructor_args=(settings, job),
        compute=ray.data.ActorPoolStrategy(size=wanted),
        **{"num_gpus" if num_gpus else "num_cpus": 1},  # Ray Data takes one of them alone
    )
    for row in made.iter_rows():
        yield Made(**row)


def _last_line(error: Exception) -> str:
    """What failed, without the stack of every process it came through."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
