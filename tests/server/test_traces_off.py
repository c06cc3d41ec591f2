"""Traces that nobody asks for, and those that cannot be made, as the extra otel is not installed."""

import sys
from contextlib import AsyncExitStack

import pytest

from server.http import serving
from server.settings import Settings, load_settings


async def test_without_the_extra_a_start_that_asks_for_traces_ends_and_another_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "server.traces", None)  # as if what it imports were not there
    async with AsyncExitStack() as opened:
        with pytest.raises(ValueError, match=r"autocompressor\[otel\]"):
            serving._tracer(Settings(traces="on"), opened)
        assert serving._tracer(Settings(traces="off"), opened) is None
        assert caplog.text == ""
        assert serving._tracer(Settings(traces="auto"), opened) is None
    assert "OTEL_EXPORTER_OTLP_ENDPOINT is set; traces need the extra otel" in caplog.text


@pytest.mark.parametrize(
    ("flags", "environment", "told"),
    [
        ({}, {}, "off"),
        ({}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, "auto"),
        ({}, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, "auto"),
        ({"traces": "on"}, {}, "on"),
        ({"traces": "off"}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, "off"),
    ],
)
def test_traces_are_off_unless_somebody_asks(flags: dict[str, str], environment: dict[str, str], told: str) -> None:
    assert load_settings(environment, flags).traces == told
