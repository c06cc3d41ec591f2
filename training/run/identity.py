"""What a run is of, written into its directory: it goes on with the same arguments alone."""

import json
from dataclasses import asdict
from pathlib import Path

from model.atomic import written_aside
from training.run.stages import Run
from training.run.surroundings import surroundings


def require_same_run(path: Path, run: Run) -> None:
    """Note what a run is of, and refuse to go on with the stages of another.

    Raises:
        ValueError: another recipe, seed or data, as far as names and sizes of files tell.
    """
    files = [file for source in run.sources for file in source.files("train")]
    arguments = {
        "seed": run.seed,
        "data": [asdict(source) for source in run.sources],
        "files": [[file.name, file.num_bytes] for file in files],
        "recipe": asdict(run.recipe),
    }
    arguments = json.loads(json.dumps(arguments))  # tuples are lists in what is read
    if path.is_file():
        stored = json.loads(path.read_text())
        differing = [name for name in arguments if stored.get(name) != arguments[name]]
        if differing:
            name = differing[0]
            raise ValueError(
                f"{path.parent} holds a run with {name} = {stored.get(name)}, not {arguments[name]}; "
                f"give the same arguments to go on with it, or another --out"
            )
    elif run.accelerator.is_main_process:
        with written_aside(path) as aside:
            aside.write_text(json.dumps({**arguments, **surroundings()}, indent=1) + "\n")
    run.accelerator.wait_for_everyone()
