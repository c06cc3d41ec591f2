"""Where judges are installed: environments that are kept until what they are made of changes."""

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

SUITE_SOURCE = "https://github.com/openresponses/openresponses"
SUITE_VARIABLE = "OPENRESPONSES_SUITE"
SUITE_PARTS = ("bin/compliance-test.ts", "src/lib", "src/generated")
NODE_PACKAGES = ("bun@1.4.5", "zod@3.25.76")
GIT_SECONDS, NPM_SECONDS, PIP_SECONDS = 120, 300, 600


class Unavailable(Exception):
    """A judge cannot be had here; the message is the reason that the table tells."""


def python_packages(folder: Path, requirements: Sequence[str]) -> Path:
    """A virtual environment with these packages; Unavailable where pip cannot get them."""
    wanted = "\n".join(requirements)
    if _is_made_of(folder, wanted):
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    _run([python_of(folder), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements], folder)
    (folder / "made-of").write_text(wanted)
    return folder


def compliance_suite(folder: Path) -> Path:
    """The Open Responses suite with bun: from the folder that OPENRESPONSES_SUITE names, else from its repository.

    Where the variable names none, one that was installed stays, wherever it came from.

    Raises:
        Unavailable: neither can be had, or no npm.
    """
    given = os.environ.get(SUITE_VARIABLE)
    packages = "\n".join(NODE_PACKAGES)
    wanted = f"{packages}\n{given or SUITE_SOURCE}"
    if _is_made_of(folder, wanted) or (not given and _is_made_of(folder, packages)):
        return folder
    npm = shutil.which("npm")
    if npm is None:
        raise Unavailable("there is no npm, which bun comes by")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    source = Path(given) if given else folder / "repository"
    if not given:
        _run(["git", "clone", "--quiet", "--depth", "1", SUITE_SOURCE, source], folder, GIT_SECONDS)
    for part in SUITE_PARTS:
        here, there = source / part, folder / part
        if not here.exists():
            raise Unavailable(f"{source} has no {part}")
        if here.is_dir():
            shutil.copytree(here, there)
        else:
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(here, there)
    (folder / "package.json").write_text('{"private": true}\n')
    _run([npm, "install", "--no-audit", "--no-fund", "--silent", *NODE_PACKAGES], folder, NPM_SECONDS)
    (folder / "made-of").write_text(wanted)
    return folder


def python_of(folder: Path) -> Path:
    return folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"


def _is_made_of(folder: Path, wanted: str) -> bool:
    """Whether all of it is there; `wanted` are the first lines of what it is made of, or all."""
    made = folder / "made-of"
    return made.exists() and f"{made.read_text()}\n".startswith(f"{wanted}\n")


def _run(command: Sequence[str | Path], folder: Path, seconds: int = PIP_SECONDS) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=seconds, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{Path(command[0]).name}: {error}") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["it says nothing"]
        raise Unavailable(f"{Path(command[0]).name} failed: {said[-1]}")
