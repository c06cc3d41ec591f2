"""A GGUF file becomes a plain checkpoint: the same logits, and a tokenizer that cuts as SmolLM's does."""

from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType

from model.base import load_base
from model.bases.gguf_llama import GgufLlama
from tests.tiny import random_ids, tiny_tokenizer
from tests.wheels import F16, F32, as_stored, tiny_llama, write_gguf

Q4_1, Q8_0 = GGMLQuantizationType.Q4_1, GGMLQuantizationType.Q8_0


def converted(folder: Path, kind: GGMLQuantizationType = F32) -> Path:
    write_gguf(folder / "tiny.gguf", kind=kind)
    directory = folder / "converted"
    directory.mkdir()
    GgufLlama.read(folder / "tiny.gguf").save(directory)
    return directory


def test_logits_are_those_of_the_model_that_was_written(tmp_path: Path) -> None:
    loaded, _ = load_base(str(converted(tmp_path)), dtype=torch.float32, device=None)
    ids = random_ids(2, 40)
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=ids).logits, tiny_llama()(input_ids=ids).logits)


@pytest.mark.parametrize("kind", [F16, Q4_1, Q8_0], ids=["F16", "Q4_1", "Q8_0"])
def test_quantised_weights_are_rounded_once_more_to_bfloat16(kind: GGMLQuantizationType, tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", kind=kind)
    weights = GgufLlama.read(tmp_path / "tiny.gguf").weights
    written = dict(tiny_llama().named_parameters())
    assert weights.keys() == written.keys()
    for name, weight in written.items():
        assert torch.equal(weights[name], as_stored(weight.detach(), kind)), name
    if kind == Q4_1:
        assert any(not torch.equal(weights[name].float(), weight) for name, weight in written.items())


def test_the_checkpoint_says_nothing_of_where_it_comes_from(tmp_path: Path) -> None:
    directory = converted(tmp_path)
    loaded, _ = load_base(str(directory), dtype=None, device=None)
    assert loaded.dtype == torch.bfloat16
    config, expected = loaded.config, tiny_llama().config
    for name in ("hidden_size", "num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "rope_parameters"):
        assert getattr(config, name) == getattr(expected, name), name
    text = (directory / "config.json").read_text()
    assert "quantization_config" not in text
    assert "_name_or_path" not in text
    mode = (directory / "config.json").stat().st_mode
    assert {path.name for path in directory.iterdir() if path.stat().st_mode != mode} == set()


def test_the_tokenizer_adds_nothing_and_cuts_digits_one_by_one(tmp_path: Path) -> None:
    _, tokenizer = load_base(str(converted(tmp_path)), dtype=None, device=None)
    assert tokenizer is not None
    words = "The keeper, Größe 東京"
    assert tokenizer(words)["input_ids"] == tiny_tokenizer()(words)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(tokenizer("x =  1234")["input_ids"])[-5:] == ["Ġ", *"1234"]
    assert tokenizer("ab<|endoftext|>")["input_ids"].count(0) == 1
    for text in (words, "x =  1234", " 3.14\n\n½"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False) == "<user>Hi"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tokenizer_pre": "llama-bpe"}, r"kind \('gpt2', 'llama-bpe'\); supported is \('gpt2', 'smollm'\)"),
        ({"tokenizer_model": "llama"}, r"kind \('llama', 'smollm'\)"),
        ({"rope_scaling": 2.0}, r"llama, llama\.rope\.scaling\.factor; supported is llama, its"),
        ({"leave_out": "model.norm.weight"}, r"do not fit its figures: model\.norm\.weight and 0 more"),
    ],
)
def test_what_would_be_read_wrongly_is_refused(changes: dict[str, str], said: str, tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", **changes)
    with pytest.raises(ValueError, match=said):
        GgufLlama.read(tmp_path / "tiny.gguf")
