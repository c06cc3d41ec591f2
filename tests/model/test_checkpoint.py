"""Checkpoints: what is saved is loaded, by us and by others, and the authors' published layouts load too."""

import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, OPTConfig
from transformers.utils.logging import enable_progress_bar

from model import AutoCompressor
from tests.tiny import FAMILIES, random_base, random_ids, tiny_base, tiny_compressor, tiny_tokenizer

PAPER = Path(__file__).parents[2] / "model" / "paper"
FOLDER = "autocompressor"
WEIGHT = "embed_summary.weight"


def vectors_of(model: AutoCompressor) -> Tensor:
    with torch.no_grad():
        return model.compress(random_ids(2, 24), segment_lengths=[10, 14])


def assert_same(one: AutoCompressor, other: AutoCompressor) -> None:
    assert one.dtype == other.dtype
    assert torch.equal(vectors_of(one), vectors_of(other))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A Llama's checkpoint, in our format."""
    tiny_compressor("llama").save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


# --- our format


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_round_trip(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = tiny_compressor(family, summary_length=3, accumulate_summary=False, segment_length=11, dtype=dtype)
    model.save_pretrained(tmp_path / "deep" / "saved")
    loaded = AutoCompressor.from_pretrained(tmp_path / "deep" / "saved")
    assert_same(model, loaded)
    assert loaded.config == model.config
    assert loaded.fingerprint == model.fingerprint
    assert loaded.dtype == dtype
    assert not loaded.training
    assert (loaded.summary_length, loaded.accumulate_summary, loaded.segment_length) == (3, False, 11)
    assert (loaded.hidden_size, loaded.max_positions) == (model.hidden_size, 128)


def test_whoever_may_read_the_configuration_may_read_the_weights(tmp_path: Path) -> None:
    """A container's user is not who trained; safetensors gives its files to their owner alone."""
    before = os.umask(0o027)
    try:
        tiny_compressor("llama").save_pretrained(tmp_path)
    finally:
        os.umask(before)
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {file.suffix for file in files} >= {".json", ".safetensors"}
    assert {file.name: oct(file.stat().st_mode & 0o777) for file in files} == {file.name: "0o640" for file in files}


def test_the_tokenizer_comes_along(saved: Path) -> None:
    loaded = AutoCompressor.from_pretrained(saved).tokenizer
    text = "Ninety lines, Größe 東京"
    assert loaded(text)["input_ids"] == tiny_tokenizer()(text)["input_ids"]
    assert loaded.decode(loaded(text)["input_ids"], skip_special_tokens=True) == text
    assert loaded.eos_token_id == 0


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_a_checkpoint_without_a_tokenizer(family: str, tmp_path: Path) -> None:
    model = tiny_compressor(family)
    model.tokenizer = None
    model.save_pretrained(tmp_path)
    assert AutoCompressor.from_pretrained(tmp_path).tokenizer is None


def test_without_summaries(tmp_path: Path) -> None:
    model, ids = tiny_compressor("llama", summary_length=0), random_ids(1, 8)
    model.save_pretrained(tmp_path)
    loaded = AutoCompressor.from_pretrained(tmp_path)
    assert loaded.summary_length == 0
    assert torch.equal(loaded(ids).logits, model(ids).logits)


def test_saving_twice_replaces(saved: Path) -> None:
    model = tiny_compressor("llama", seed=7, summary_length=6, segment_length=9)
    model.save_pretrained(saved)
    loaded = AutoCompressor.from_pretrained(saved)
    assert_same(model, loaded)
    assert loaded.config == model.config


def test_a_string_is_a_path_too(saved: Path) -> None:
    assert AutoCompressor.from_pretrained(str(saved)).summary_length == 4


def test_another_dtype_on_loading(saved: Path) -> None:
    loaded = AutoCompressor.from_pretrained(saved, dtype=torch.bfloat16, device="cpu")
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    assert_same(loaded, tiny_compressor("llama", dtype=torch.bfloat16))
    assert loaded.fingerprint == tiny_compressor("llama", dtype=torch.bfloat16).fingerprint


@pytest.mark.parametrize("family", FAMILIES)
def test_others_load_the_directory_as_the_base_model(family: str, tmp_path: Path) -> None:
    model, ids = tiny_compressor(family), random_ids(2, 12)
    model.save_pretrained(tmp_path)
    plain, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]
    assert type(plain) is type(model.base)
    with torch.no_grad():
        assert torch.equal(plain.eval()(input_ids=ids).logits, model.base(input_ids=ids).logits)


LOAD_PLAINLY = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
ids = AutoTokenizer.from_pretrained(sys.argv[1])("One line a day", return_tensors="pt")
print(model.generate(**ids, max_new_tokens=2, do_sample=False).shape[0])
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["saved", "in shards", "bundled"])
def test_others_load_the_directory_without_a_warning(kind: str, tmp_path: Path) -> None:
    """All warnings shown, Python's and those that transformers logs."""
    directory = PAPER if kind == "bundled" else tmp_path
    if kind != "bundled":
        tiny_compressor("llama").save_pretrained(tmp_path, max_shard_size="20KB" if kind == "in shards" else None)
        assert len(list(tmp_path.glob("*.safetensors"))) > (1 if kind == "in shards" else 0)
    command = [sys.executable, "-W", "error", "-c", LOAD_PLAINLY, str(directory)]
    quiet = {"TRANSFORMERS_VERBOSITY": "warning", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **quiet})
    assert done.returncode == 0, done.stderr
    assert done.stdout == "1\n"
    assert done.stderr == ""


def test_our_parts_are_in_the_subfolder_only(tmp_path: Path) -> None:
    tiny_compressor("llama").save_pretrained(tmp_path / "ours")
    tiny_base("llama").save_pretrained(tmp_path / "plain")
    tiny_tokenizer().save_pretrained(tmp_path / "plain")
    ours, plain = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir() if path.is_file()}
        for name in ("ours", "plain")
    )
    assert ours == plain
    assert {path.name for path in (tmp_path / "ours").iterdir()} - set(plain) == {FOLDER}
    names = {path.name for path in (tmp_path / "ours" / FOLDER).iterdir()}
    assert names == {"config.json", "summary_embeddings.safetensors"}


# --- fingerprint


def test_the_fingerprint_names_weights_and_configuration() -> None:
    def changed(weight: Callable[[AutoCompressor], Tensor]) -> str:
        model = tiny_compressor("llama")
        with torch.no_grad():
            weight(model).view(-1)[3] += 1e-3
        return model.fingerprint

    fingerprints = [
        tiny_compressor("llama").fingerprint,
        changed(lambda model: model.embed_summary.weight),
        changed(lambda model: model.base.get_input_embeddings().weight),
        changed(lambda model: model.base.model.norm.weight),
        changed(lambda model: model.base.lm_head.weight),
        tiny_compressor("llama", dtype=torch.bfloat16).fingerprint,
        tiny_compressor("llama", accumulate_summary=False).fingerprint,
        tiny_compressor("llama", summary_length=5).fingerprint,
        tiny_compressor("mistral").fingerprint,
    ]
    assert len(set(fingerprints)) == len(fingerprints)
    assert all(len(fingerprint) == 64 and int(fingerprint, 16) for fingerprint in fingerprints)


def test_the_fingerprint_is_not_of_the_segment_length() -> None:
    one, other = (tiny_compressor("llama", segment_length=length) for length in (16, 32))
    assert one.fingerprint == other.fingerprint == tiny_compressor("llama").fingerprint


# --- the authors' layouts

LLAMA = {
    "architectures": ["LlamaAutoCompressorModel"],
    "model_type": "llama",
    "bos_token_id": 0,
    "eos_token_id": 0,
    "hidden_act": "silu",
    "hidden_size": 32,
    "initializer_range": 0.02,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "transformers_version": "4.34.0.dev0",
    "use_cache": True,
    "vocab_size": 320,
}
OPT = {
    "_remove_final_layer_norm": False,
    "architectures": ["OPTAutoCompressorModel"],
    "model_type": "opt",
    "activation_dropout": 0.0,
    "activation_function": "relu",
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "do_layer_norm_before": True,
    "dropout": 0.1,
    "eos_token_id": 0,
    "ffn_dim": 64,
    "hidden_size": 32,
    "init_std": 0.02,
    "layerdrop": 0.0,
    "max_position_embeddings": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "pad_token_id": 1,
    "prefix": "</s>",
    "torch_dtype": "float32",
    "transformers_version": "4.28.1",
    "use_cache": True,
    "vocab_size": 320,
    "word_embed_proj_dim": 32,
}
CONFIGS = {
    "llama": LLAMA,
    "opt": OPT,
    "opt-alias": OPT | {"architectures": ["AutoCompressorModel"]},
}


def write_safetensors(directory: Path, tensors: dict[str, Tensor]) -> None:
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def write_sharded_safetensors(directory: Path, tensors: dict[str, Tensor]) -> None:
    def save(shard: dict[str, Tensor], path: Path) -> None:
        save_file(shard, path, metadata={"format": "pt"})

    write_shards(directory, tensors, "model", "safetensors", save)


def write_bin(directory: Path, tensors: dict[str, Tensor]) -> None:
    torch.save(tensors, directory / "pytorch_model.bin")


def write_sharded_bin(directory: Path, tensors: dict[str, Tensor]) -> None:
    write_shards(directory, tensors, "pytorch_model", "bin", torch.save)


def write_shards(
    directory: Path, tensors: dict[str, Tensor], stem: str, suffix: str, save: Callable[[dict[str, Tensor], Path], None]
) -> None:
    names = sorted(tensors)
    shards = {f"{stem}-{part + 1:05}-of-00002.{suffix}": names[part::2] for part in range(2)}
    for file, members in shards.items():
        save({name: tensors[name] for name in members}, directory / file)
    index = {
        "metadata": {"total_size": sum(tensor.nbytes for tensor in tensors.values())},
        "weight_map": {name: file for file, members in shards.items() for name in members},
    }
    (directory / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))


LAYOUTS = {
    "safetensors": write_safetensors,
    "sharded-safetensors": write_sharded_safetensors,
    "bin": write_bin,
    "sharded-bin": write_sharded_bin,
}


def publish(
    model: AutoCompressor,
    directory: Path,
    *,
    kind: str,
    layout: str = "safetensors",
    leave_out: str = "",
    **changes: Any,
) -> Path:
    """Write a model as the authors' classes save it: the base's keys and `embed_summary.weight` side by side."""
    directory.mkdir(parents=True, exist_ok=True)
    fields = {
        "summary_length": model.summary_length,
        "accumulate_summary": model.accumulate_summary,
        "segment_gradient_checkpointing": True,
    }
    (directory / "config.json").write_text(json.dumps(CONFIGS[kind] | fields | changes))
    tensors = {name: tensor.detach().clone() for name, tensor in model.base.state_dict().items()}
    tensors[WEIGHT] = model.embed_summary.weight.detach().clone()
    if model.base.config.tie_word_embeddings and "safetensors" in layout:
        del tensors["lm_head.weight"]  # shares its memory; the .bin files have both
    if leave_out:
        del tensors[leave_out]
    LAYOUTS[layout](directory, tensors)
    return directory


@pytest.mark.parametrize("accumulate_summary", [True, False], ids=["accumulate", "rmt"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", CONFIGS)
def test_published_layouts_load(kind: str, layout: str, accumulate_summary: bool, tmp_path: Path) -> None:
    model = tiny_compressor(kind.removesuffix("-alias"), summary_length=5, accumulate_summary=accumulate_summary)
    loaded = AutoCompressor.from_pretrained(publish(model, tmp_path, kind=kind, layout=layout))
    assert_same(model, loaded)
    assert (loaded.summary_length, loaded.accumulate_summary) == (5, accumulate_summary)
    assert not loaded.training
    ids = random_ids(1, 9)
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, model(ids).logits)


@pytest.fixture
def told() -> Iterator[list[str]]:
    """What transformers logs from warnings up."""
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", CONFIGS)
def test_our_own_weights_surprise_nobody(kind: str, layout: str, told: list[str], tmp_path: Path) -> None:
    """transformers reported `embed_summary.weight` as unexpected, in a table on standard error."""
    model = tiny_compressor(kind.removesuffix("-alias"))
    loaded = AutoCompressor.from_pretrained(publish(model, tmp_path / "published", kind=kind, layout=layout))
    assert told == []
    assert type(loaded.base) is type(model.base)
    AutoModelForCausalLM.from_pretrained(tmp_path / "published")
    assert len(told) == 1, "transformers itself no longer reports it: nothing need be silenced"


def test_loading_draws_no_bars(saved: Path, capfd: pytest.CaptureFixture[str]) -> None:
    enable_progress_bar()  # a server that another test started has them off
    capfd.readouterr()
    AutoCompressor.from_pretrained(saved)
    assert capfd.readouterr() == ("", "")
    AutoModelForCausalLM.from_pretrained(saved)
    assert "Loading weights" in capfd.readouterr().err, "others' bars are theirs"


@pytest.mark.parametrize("stranger", ["stranger.weight", "model.embed_summary.weight"])
def test_others_weights_are_told_of(stranger: str, told: list[str], tmp_path: Path) -> None:
    directory = publish(tiny_compressor("llama"), tmp_path, kind="llama")
    tensors = load_file(directory / "model.safetensors") | {stranger: torch.zeros(3)}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    AutoCompressor.from_pretrained(directory)
    (report,) = told
    assert f"\n{stranger} " in report
    assert f"\n{WEIGHT} " not in report


def test_a_published_checkpoint_names_no_segment_length(tmp_path: Path) -> None:
    llama = publish(tiny_compressor("llama"), tmp_path / "llama", kind="llama")
    opt = publish(tiny_compressor("opt"), tmp_path / "opt", kind="opt")
    assert AutoCompressor.from_pretrained(llama).segment_length == 64  # half is left to the soft prompt
    assert AutoCompressor.from_pretrained(opt).segment_length == 96  # between half of the table and all of it


@pytest.mark.parametrize("kind", ["llama", "opt"])
def test_a_published_checkpoint_without_a_tokenizer(kind: str, tmp_path: Path) -> None:
    loaded = AutoCompressor.from_pretrained(publish(tiny_compressor(kind), tmp_path, kind=kind))
    assert loaded.tokenizer is None


def test_a_published_checkpoint_becomes_one_of_ours(tmp_path: Path) -> None:
    model = tiny_compressor("opt")
    published = AutoCompressor.from_pretrained(publish(model, tmp_path / "published", kind="opt", layout="bin"))
    published.save_pretrained(tmp_path / "ours")
    loaded = AutoCompressor.from_pretrained(tmp_path / "ours")
    assert_same(model, loaded)
    assert loaded.fingerprint == published.fingerprint
    _, report = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not report["unexpected_keys"]


def test_a_published_model_without_summaries(tmp_path: Path) -> None:
    model, ids = tiny_compressor("llama", summary_length=0), random_ids(1, 9)
    loaded = AutoCompressor.from_pretrained(publish(model, tmp_path, kind="llama", leave_out=WEIGHT))
    assert loaded.summary_length == 0
    assert torch.equal(loaded(ids).logits, model(ids).logits)


@pytest.mark.parametrize(("summary_length", "leave_out"), [(3, ""), (0, WEIGHT)], ids=["summaries", "plain"])
def test_a_published_opt_with_projected_embeddings(summary_length: int, leave_out: str, tmp_path: Path) -> None:
    """As OPT-350m: embeddings, and so summary embeddings, of another width than the layers."""
    sizes = {"vocab_size": 320, "hidden_size": 32, "ffn_dim": 64, "word_embed_proj_dim": 16, "num_hidden_layers": 2}
    config = OPTConfig(**sizes, num_attention_heads=4, max_position_embeddings=128, eos_token_id=0)
    model, ids = AutoCompressor.from_base(random_base(config), summary_length=summary_length), random_ids(1, 9)
    publish(model, tmp_path, kind="opt", word_embed_proj_dim=16, leave_out=leave_out)
    loaded = AutoCompressor.from_pretrained(tmp_path)
    assert loaded.embed_summary.weight.shape == (summary_length, 16)
    assert torch.equal(loaded(ids).logits, model(ids).logits)


def test_half_precision_weights_keep_their_dtype(tmp_path: Path) -> None:
    model = tiny_compressor("llama", dtype=torch.bfloat16)
    loaded = AutoCompressor.from_pretrained(
        publish(model, tmp_path, kind="llama", layout="sharded-bin", torch_dtype="bfloat16")
    )
    assert_same(model, loaded)
    assert loaded.dtype == torch.bfloat16


# --- what is refused


class Intruder:
    """A pickle that creates a directory when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return Path.mkdir, (self.path,)


def test_a_pickle_that_runs_code_does_so_when_nobody_forbids_it(tmp_path: Path) -> None:
    """Or the two tests below would prove nothing."""
    torch.save({WEIGHT: Intruder(tmp_path / "intruder")}, tmp_path / "pytorch_model.bin")
    torch.load(tmp_path / "pytorch_model.bin", weights_only=False)
    assert (tmp_path / "intruder").is_dir()


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    directory = publish(tiny_compressor("llama"), tmp_path / "published", kind="llama", layout="bin")
    tensors = torch.load(directory / "pytorch_model.bin", weights_only=True)
    torch.save(tensors | {"more": Intruder(tmp_path / "intruder")}, directory / "pytorch_model.bin")
    with pytest.raises(pickle.UnpicklingError):
        AutoCompressor.from_pretrained(directory)
    assert not (tmp_path / "intruder").exists()


def test_a_pickle_among_the_weights_of_the_base_is_refused(saved: Path, tmp_path: Path) -> None:
    tensors = load_file(saved / "model.safetensors")
    (saved / "model.safetensors").unlink()
    torch.save(tensors | {"more": Intruder(tmp_path / "intruder")}, saved / "pytorch_model.bin")
    with pytest.raises((pickle.UnpicklingError, ValueError, OSError)):
        AutoCompressor.from_pretrained(saved)
    assert not (tmp_path / "intruder").exists()


def test_a_plain_language_model_is_pointed_to_from_base(tmp_path: Path) -> None:
    tiny_base("llama").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"plain language model.*AutoCompressor\.from_base"):
        AutoCompressor.from_pretrained(tmp_path)


def test_a_folder_without_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path} holds no checkpoint: it has no config\.json"):
        AutoCompressor.from_pretrained(tmp_path)


@pytest.mark.parametrize("load", [AutoCompressor.from_pretrained, AutoCompressor.from_base])
def test_a_directory_that_is_not_there(load: Callable[[Path], AutoCompressor], tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        load(tmp_path / "nowhere")


def test_an_empty_directory(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"config\.json"):
        AutoCompressor.from_pretrained(tmp_path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_published_checkpoint_without_summary_embeddings(layout: str, tmp_path: Path) -> None:
    publish(tiny_compressor("llama"), tmp_path, kind="llama", layout=layout, leave_out=WEIGHT)
    with pytest.raises(ValueError, match=r"has embed_summary\.weight"):
        AutoCompressor.from_pretrained(tmp_path)


def test_a_published_checkpoint_without_a_weight_of_the_base(tmp_path: Path) -> None:
    missing = "model.layers.1.mlp.up_proj.weight"
    publish(tiny_compressor("llama"), tmp_path, kind="llama", leave_out=missing)
    with pytest.raises(ValueError, match=f"lacks 1 weights, {missing}"):
        AutoCompressor.from_pretrained(tmp_path)


def test_published_summary_embeddings_of_another_shape(tmp_path: Path) -> None:
    publish(tiny_compressor("llama"), tmp_path, kind="llama", summary_length=6)
    with pytest.raises(ValueError, match=r"\(4, 32\); the model needs \(6, 32\)"):
        AutoCompressor.from_pretrained(tmp_path)


def test_summary_embeddings_of_another_shape(saved: Path) -> None:
    save_file({WEIGHT: torch.zeros(4, 24)}, saved / FOLDER / "summary_embeddings.safetensors")
    with pytest.raises(ValueError, match=r"\(4, 24\); the model needs \(4, 32\)"):
        AutoCompressor.from_pretrained(saved)


def test_a_folder_of_ours_without_its_weights(saved: Path) -> None:
    (saved / FOLDER / "summary_embeddings.safetensors").unlink()
    with pytest.raises((ValueError, OSError), match="summary_embeddings"):
        AutoCompressor.from_pretrained(saved)


def test_summary_embeddings_under_another_name(saved: Path) -> None:
    save_file({"weight": torch.zeros(4, 32)}, saved / FOLDER / "summary_embeddings.safetensors")
    with pytest.raises(ValueError, match=r"embed_summary\.weight"):
        AutoCompressor.from_pretrained(saved)


def change_config(saved: Path, **changes: Any) -> None:
    path = saved / FOLDER / "config.json"
    fields = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in fields.items() if value is not None}))


@pytest.mark.parametrize("version", [None, 0, 2, "1"])
def test_another_format_version(saved: Path, version: int | str | None) -> None:
    change_config(saved, format_version=version)
    with pytest.raises(ValueError, match=f"format_version {version}; this version reads 1"):
        AutoCompressor.from_pretrained(saved)


def test_an_unknown_field(saved: Path) -> None:
    change_config(saved, summary_lenght=4)
    with pytest.raises(ValueError, match=r"summary_lenght.*expected \['accumulate_summary'"):
        AutoCompressor.from_pretrained(saved)


def test_a_missing_field(saved: Path) -> None:
    change_config(saved, accumulate_summary=None)
    with pytest.raises(ValueError, match=r"fields \['segment_length', 'summary_length'\]; expected"):
        AutoCompressor.from_pretrained(saved)


# --- from a base


def test_from_a_base_by_path(tmp_path: Path) -> None:
    base, ids = tiny_base("llama"), random_ids(1, 9)
    base.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    for path in (tmp_path, str(tmp_path)):
        model = AutoCompressor.from_base(path, summary_length=3, accumulate_summary=False, segment_length=12)
        assert (model.summary_length, model.accumulate_summary, model.segment_length) == (3, False, 12)
        assert model.tokenizer("fog")["input_ids"] == tiny_tokenizer()("fog")["input_ids"]
        assert torch.equal(model(ids).logits, base(input_ids=ids).logits)
    half = AutoCompressor.from_base(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    assert half.summary_length == 50


@pytest.mark.parametrize("end_of_text", [9, [9, 11]], ids=["one", "several"])
def test_summary_embeddings_start_as_end_of_text(end_of_text: int | list[int]) -> None:
    base = tiny_base("llama")
    base.config.eos_token_id = end_of_text
    model = AutoCompressor.from_base(base, summary_length=3)
    expected = base.get_input_embeddings().weight[9]
    assert expected.norm() > 0
    assert torch.equal(model.embed_summary.weight, expected.expand(3, -1))


def test_summary_embeddings_are_no_view_of_the_end_of_text() -> None:
    model = AutoCompressor.from_base(tiny_base("llama"), summary_length=3)
    before = model.base.get_input_embeddings().weight.detach().clone()
    with torch.no_grad():
        model.embed_summary.weight[0] += 1
    assert torch.equal(model.base.get_input_embeddings().weight, before)
    assert not torch.equal(model.embed_summary.weight[0], model.embed_summary.weight[1])


# --- the hub


def test_a_hub_id_is_a_snapshot(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what the patterns name is downloaded; it must be enough."""
    asked = []

    def snapshot_download(repo_id: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append(repo_id)
        snapshot = tmp_path / "snapshot"
        for pattern in allow_patterns:
            for file in saved.glob(pattern):
                if file.is_file():
                    target = snapshot / file.relative_to(saved)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(file, target)
        return str(snapshot)

    monkeypatch.setattr("model.checkpoint_directory.snapshot_download", snapshot_download)
    loaded = AutoCompressor.from_pretrained("someone/a-compressor")
    assert asked == ["someone/a-compressor"]
    assert_same(loaded, AutoCompressor.from_pretrained(saved))
    assert loaded.tokenizer("fog")["input_ids"] == tiny_tokenizer()("fog")["input_ids"]
