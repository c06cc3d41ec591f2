"""Logging, set once at the start: a line an event on standard error, as text or as JSON."""

import json
import logging
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Literal

from server import tally

LogFormat = Literal["text", "json"]


def configure(level: str, log_format: LogFormat = "text") -> None:
    """Our own lines from `level` up; libraries speak from warnings up."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.basicConfig(handlers=[handler])
    logging.getLogger("server").setLevel(level.upper())
    logging.getLogger("server.audit").setLevel(logging.INFO)  # whatever else is wanted: it is kept for others to read
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it tells of every index that it builds


def fields(values: dict[str, Any]) -> dict[str, Any]:
    """What a logging call takes as `extra`: values with names, beside its message."""
    return {"fields": values}


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """A record's own values, and whose request it is of."""
    request = tally.current()
    of_request: dict[str, Any] = {}
    if request is not None:
        of_request["request_id"] = request.request_id
        if request.trace_id is not None:
            of_request["trace_id"] = request.trace_id
    return of_request | getattr(record, "fields", {})


def _exception(record: logging.LogRecord) -> str | None:
    """A record's exception, with those that it came of; None where there is none.

    What libraries log of errors that came out of a request, as uvicorn and asyncio do, is told without their messages:
    nobody knows whose words those repeat.
    """
    if not record.exc_info or record.exc_info[1] is None:
        return None
    error = record.exc_info[1]
    if record.name.split(".")[0] == "server":
        return "".join(traceback.format_exception(error)).rstrip()
    return "\ncame of\n".join(_without_message(each) for each in _with_causes(error))


def _with_causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _without_message(error: BaseException) -> str:
    return "".join([*traceback.format_tb(error.__traceback__), type(error).__name__])


class TextFormatter(logging.Formatter):
    """Time, level, logger and message, then values as `name=value`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s%(values)s", "%Y-%m-%d %H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        record.values = "".join(f" {name}={value}" for name, value in _fields(record).items())
        record.exc_text = _exception(record)
        return super().format(record)


class JsonFormatter(logging.Formatter):
    """One JSON object a line (jsonlines.org): `time` in UTC, `level`, `logger`, `message`, values by their names."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        exception = _exception(record)
        if exception is not None:
            line["exception"] = exception
        return json.dumps(line, default=str)
