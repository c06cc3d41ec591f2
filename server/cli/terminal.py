"""What the command line says: results on standard output, all else on standard error, and the exit status."""

import json
from dataclasses import asdict, is_dataclass
from enum import IntEnum
from typing import Any, NoReturn

import typer
from pydantic import ValidationError


class Status(IntEnum):
    """Exit statuses, for scripts."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    PARTLY_FAILED = 4


STATUS_HELP = (
    "Exit status: 0 done, 1 the request failed, 2 wrong usage or settings, 3 no server answers, "
    "4 some of several failed."
)


def say(message: str) -> None:
    """A line for who watches, not part of the result."""
    typer.echo(f"autocompressor: {message}", err=True)


def stop(message: str, status: Status = Status.USAGE) -> NoReturn:
    say(message)
    raise typer.Exit(status)


def as_json(result: Any, **more: Any) -> str:
    """A result on one line, after the fields that the command adds."""
    return json.dumps(more | (asdict(result) if is_dataclass(result) else result), ensure_ascii=False)  # type: ignore[arg-type]


def as_sentence(error: Exception) -> str:
    """Why a start failed; of several bad settings, the first."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    if not first["loc"]:  # of all settings together, whose values are secrets too
        return first["msg"].removeprefix("Value error, ")
    return f"setting {first['loc'][0]} = {first['input']!r}: {first['msg']}"
