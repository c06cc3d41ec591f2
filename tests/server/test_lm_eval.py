"""lm-evaluation-harness as a client: the numbers of its own in-process model, on a task of this repository's own."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from tests.server.test_crash import running

ITEMS = [
    {"question": "The keeper wrote one line a", "choices": [" day", " ship", " white cat"], "answer": 0},
    {"question": "Who counts ships that nobody can", "choices": [" see", " hear and no fog"], "answer": 0},
    {"question": "A book that keeps everything is a", "choices": [" chart", " sea"], "answer": 1},
]
TASK = {
    "task": "lighthouse",
    "dataset_path": "json",
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "{{answer}}",
    "target_delimiter": "",
    "metric_list": [{"metric": "acc"}],
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the harness's own
def test_lm_eval_gets_the_numbers_of_its_own_model(checkpoint: Path, tmp_path: Path) -> None:
    lm_eval = pytest.importorskip("lm_eval", reason="lm-eval is of the extra `ci`")
    data = tmp_path / "items.jsonl"
    data.write_text("".join(json.dumps(item) + "\n" for item in ITEMS))
    task = {**TASK, "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(tmp_path / "cache")}}
    with running(checkpoint, f"sqlite:{tmp_path}/store.sqlite3", tmp_path) as server:
        url = f"{server.client.base_url}/v1/completions"
        served = evaluated(
            lm_eval,
            task,
            model="local-completions",
            model_args=f"model={checkpoint.name},base_url={url},tokenizer={checkpoint},max_length=512,num_concurrent=2",
        )
    own = evaluated(lm_eval, task, model="hf", model_args=f"pretrained={checkpoint},dtype=float32", device="cpu")
    assert len(served) == len(own) == sum(len(item["choices"]) for item in ITEMS)  # type: ignore[arg-type]
    for (logprob, is_greedy), (expected, is_expected) in zip(served, own, strict=True):
        assert logprob == pytest.approx(expected, abs=1e-3)
        assert is_greedy == is_expected


def evaluated(lm_eval: Any, task: dict[str, Any], **model: Any) -> list[tuple[float, bool]]:
    """Log-probability, and whether it is the greedy one, of every choice of every item."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = lm_eval.simple_evaluate(tasks=[dict(task)], batch_size=2, bootstrap_iters=0, **model)
    samples = sorted(results["samples"]["lighthouse"], key=lambda sample: sample["doc_id"])
    return [(float(one[0][0]), str(one[0][1]) == "True") for sample in samples for one in sample["resps"]]
