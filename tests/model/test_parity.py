"""Ours = the authors' implementation, on the recorded cases of tests/parity."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from model import AutoCompressor

FOLDERS = sorted(path.parent for path in (Path(__file__).parents[1] / "parity").glob("*/cases.json"))
TOLERANCE = 1e-4


def recorded() -> list[Any]:
    return [
        pytest.param(folder, case, id=f"{folder.name}-{case['name']}")
        for folder in FOLDERS
        for case in json.loads((folder / "cases.json").read_text())["cases"]
    ]


def test_all_recorded_models_are_here() -> None:
    assert len(FOLDERS) == 5


class Case:
    """One recorded case with its model and its expected tensors."""

    def __init__(self, folder: Path, case: dict[str, Any]) -> None:
        self.model = AutoCompressor.from_pretrained(folder)
        self.expected = load_file(folder / "expected.safetensors")
        self.name, self.inputs, self.outputs = case["name"], case["inputs"], case["outputs"]
        self.input_ids = torch.tensor(self.inputs["input_ids"])
        self.attention_mask = self.tensor("attention_mask")
        self.labels = self.tensor("labels")

    def tensor(self, name: str) -> Tensor | None:
        value = self.inputs.get(name)
        return None if value is None else torch.tensor(value)

    def soft_prompt(self) -> Tensor | None:
        names = self.inputs.get("softprompt")
        if names is None:
            return None
        if not names:
            return self.model.empty_soft_prompt()
        return torch.cat([self.expected[f"{name}.softprompt"] for name in names], dim=1)

    def check(self, what: str, actual: Tensor) -> None:
        if what in self.outputs:
            expected = self.expected[self.outputs[what]]
            torch.testing.assert_close(actual.reshape(expected.shape), expected, rtol=0, atol=TOLERANCE)

    def check_gradient(self, what: str, actual: Tensor) -> None:
        if what in self.outputs:
            expected = self.expected[self.outputs[what]].reshape(actual.shape)
            torch.testing.assert_close(actual, expected, rtol=0, atol=TOLERANCE * float(expected.abs().max()))


@pytest.mark.parametrize(("folder", "case"), recorded())
def test_agrees_with_the_published_implementation(folder: Path, case: dict[str, Any]) -> None:
    check = {"forward": check_forward, "generate": check_generate, "train_substeps": check_train_substeps}
    check[case["kind"]](Case(folder, case))


def check_forward(case: Case) -> None:
    output = case.model(
        case.input_ids,
        attention_mask=case.attention_mask,
        segment_lengths=case.inputs["segment_lengths"],
        soft_prompt=case.soft_prompt(),
        labels=case.labels,
        output_soft_prompt=case.inputs["output_softprompt"],
    )
    mask = torch.ones_like(case.input_ids) if case.attention_mask is None else case.attention_mask
    case.check("logits", output.logits * mask[..., None])
    case.check("softprompt", output.soft_prompt)
    if output.loss is not None:
        case.check("loss", output.loss)
        output.loss.backward()
        gradient = case.model.embed_summary.weight.grad
        case.check_gradient("grad_embed_summary", torch.tensor(0.0) if gradient is None else gradient)
    if "summaries" in case.outputs and case.inputs["output_softprompt"]:
        vectors = case.model.compress(
            case.input_ids, case.attention_mask, case.inputs["segment_lengths"], case.soft_prompt()
        )
        by_segment = vectors.unflatten(1, (-1, case.model.summary_length)).transpose(0, 1)  # (segments, B, S, D)
        case.check("summaries", by_segment)


def check_generate(case: Case) -> None:
    sequences = case.model.generate(
        case.input_ids,
        attention_mask=case.attention_mask,
        segment_lengths=case.inputs["segment_lengths"],
        soft_prompt=case.soft_prompt(),
        max_new_tokens=case.inputs["max_new_tokens"],
        do_sample=case.inputs["do_sample"],
        pad_token_id=case.inputs["pad_token_id"],
    )
    assert sequences.tolist() == case.expected[case.outputs["sequences"]].tolist()


def check_train_substeps(case: Case) -> None:
    soft_prompt, losses, start = None, [], 0
    assert case.labels is not None
    for lengths in case.inputs["substeps"]:
        end = start + sum(lengths)
        output = case.model(
            case.input_ids[:, start:end],
            segment_lengths=lengths,
            soft_prompt=soft_prompt,
            labels=case.labels[:, start:end],
            output_soft_prompt=True,
        )
        output.loss.backward()
        losses.append(output.loss.detach())
        soft_prompt, start = output.soft_prompt.detach(), end
    assert soft_prompt is not None
    case.check("losses", torch.stack(losses))
    case.check("softprompt", soft_prompt)
    case.check_gradient("grad_embed_summary", case.model.embed_summary.weight.grad)
    for name, parameter in case.model.named_parameters():
        if name.endswith("embed_positions.weight") and parameter.grad is not None:
            parameter.grad[1] = 0  # the published code never trains the padding row
    norm = torch.stack([p.grad.norm() for p in case.model.parameters() if p.grad is not None]).norm()
    case.check_gradient("grad_norm", norm)
