"""Settings and the command line: a bad or unknown one stops the start with a sentence."""

from pathlib import Path

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from server.cli.main import app
from server.engine.torch.attention import SdpaKernels
from server.engine.torch.devices import choose_device, choose_dtype, choose_kernels
from server.settings import Settings, load_settings, unknown_names


def test_a_flag_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOCOMPRESSOR_PORT", "9000")
    assert Settings().port == 9000
    assert load_settings({}, {"port": "9001"}).port == 9001


@pytest.mark.parametrize(
    ("name", "value"),
    [("port", "70000"), ("dtype", "int8"), ("max_batch_tokens", "0"), ("log_level", "loud"), ("port", "x")],
)
def test_bad_values_are_refused(name: str, value: str) -> None:
    with pytest.raises(ValidationError):
        load_settings({}, {name: value})


def test_unknown_names_are_found() -> None:
    environment = {"AUTOCOMPRESSOR_PROT": "1", "AUTOCOMPRESSOR_PORT": "1", "OTHER": "1"}
    assert unknown_names(environment) == ["AUTOCOMPRESSOR_PROT"]


def test_every_setting_is_described() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_help_lists_every_flag_with_its_variable() -> None:
    text = CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "250", "TERM": "dumb"}).output
    for name in Settings.model_fields:
        assert f"--{name.replace('_', '-')}" in text
        assert f"AUTOCOMPRESSOR_{name.upper()}" in text


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        ([], {"AUTOCOMPRESSOR_PROT": "1"}, "unknown setting AUTOCOMPRESSOR_PROT"),
        ([], {"AUTOCOMPRESSOR_PORT": "x"}, "setting port = 'x'"),
        (["--max-batch-tokens", "0"], {}, "setting max_batch_tokens = '0'"),
        (["--model", "/nowhere"], {}, "there is no directory /nowhere"),
        (["--store", "mysql://x"], {}, "mysql://x"),
        (["--device", "tpu9"], {}, "device 'tpu9'"),
        (["--host", "256.0.0.1"], {}, "cannot listen at 256.0.0.1 port 0"),
    ],
)
def test_the_start_stops_with_a_sentence(
    checkpoint: Path, tmp_path: Path, arguments: list[str], environment: dict[str, str], said: str
) -> None:
    defaults = ["--port", "0", "--model", str(checkpoint), "--store", f"sqlite:{tmp_path}/store.sqlite3"]
    command = ["serve", *(defaults if "AUTOCOMPRESSOR_PORT" not in environment else []), *arguments]
    done = CliRunner().invoke(app, command, env=environment)
    assert done.exit_code == 2, done.exception
    assert done.stderr.startswith("autocompressor: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_devices_that_are_not_here_are_refused() -> None:
    device = choose_device("cpu")
    assert isinstance(choose_kernels("auto", device, choose_dtype("auto", device)), SdpaKernels)
    with pytest.raises(ValueError, match="flash-attn"):
        choose_kernels("flash", device, choose_dtype("bfloat16", device))
