"""What options take; typer's own ranges let NaN through, which compares with nothing."""

import math

import typer

from server.limits import MAX_TTL_SECONDS


def finite(value: float | None) -> float | None:
    """
    Raises:
        typer.BadParameter: it is NaN or infinite.
    """
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number")
    return value


def positive(value: float | None) -> float | None:
    """
    Raises:
        typer.BadParameter: it is not finite, or not above 0.
    """
    finite(value)
    if value is not None and value <= 0:
        raise typer.BadParameter(f"{value} is not above 0")
    return value


def no_empty(values: list[str] | None) -> list[str] | None:
    """
    Raises:
        typer.BadParameter: one of them is empty.
    """
    if values is not None and not all(values):
        raise typer.BadParameter("an empty text is in every other")
    return values


def not_empty(value: str) -> str:
    """
    Raises:
        typer.BadParameter: it is empty.
    """
    if not value:
        raise typer.BadParameter("it is empty")
    return value


def life_time(value: float | None) -> float | None:
    """
    Raises:
        typer.BadParameter: it is no number of seconds that a summary may live.
    """
    positive(value)
    if value is not None and value > MAX_TTL_SECONDS:
        raise typer.BadParameter(f"{value} is over the limit of {MAX_TTL_SECONDS}")
    return value
