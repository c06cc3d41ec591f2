"""Logging, set once at the start: a line an event on standard error, as text or as JSON."""

import json
import logging
from datetime import UTC, datetime
from typing import Any, Literal

from transformers.utils import logging as transformers_logging

from server import tally

LogFormat = Literal["text", "json"]


def configure(level: str, log_format: LogFormat = "text") -> None:
    """Our own lines from `level` up; libraries speak from warnings up."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.basicConfig(handlers=[handler])
    logging.getLogger("server").setLevel(level.upper())
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it tells of every index that it builds
    transformers_logging.disable_progress_bar()


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


class TextFormatter(logging.Formatter):
    """Time, level, logger and message, then values as `name=value`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s%(values)s", "%Y-%m-%d %H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        record.values = "".join(f" {name}={value}" for name, value in _fields(record).items())
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
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)
