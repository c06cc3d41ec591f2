"""Held-out perplexity of checkpoints by domain: without context, with compressed segments before it, and in full.

It is Table 1 of arXiv 2305.14788 (section 4.1), at the scale of the models given.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from model import AutoCompressor
from model.checkpoint import read_parts
from model.checkpoint_directory import resolve
from model.config import SummaryConfig
from model.positions import Positions
from model.precision import computes_in_bfloat16
from training.bases.references import plain_base
from training.data.documents import TokenisedDocuments, tokenizer_identity
from training.data.domains import documents_by_domain, has_training_file
from training.evaluation.results import Evaluation
from training.evaluation.scorer import measure
from training.evaluation.scores import AUTOCOMPRESSOR, RMT
from training.evaluation.windows import Windows

logger = logging.getLogger(__name__)

CONTEXTS = (1, 2, 3, 7)
MAX_WINDOWS = 32
BASELINES = "baselines.json"  # in a checkpoint's directory: models measured where it was made


def evaluate(
    model: AutoCompressor,
    documents_by_domain: Mapping[str, TokenisedDocuments],
    *,
    contexts: Sequence[int] = CONTEXTS,
    max_windows: int = MAX_WINDOWS,
    label: str | None = None,
    in_domain: Collection[str] = (),
) -> Evaluation:
    """Score the last segment of windows of `max(contexts) + 1` segments, every condition on the same tokens.

    The scored segment's first token is left out: without context nothing predicts it. Conditions that do not fit the
    model's positions are left out; without summary tokens, the compressed ones are.

    Args:
        model: in evaluation mode.
        contexts: numbers of segments before the scored one. max_windows: of each domain, spread evenly.
        label: of the model; None takes `AutoCompressor` or `RMT`, as its configuration says.
        in_domain: domains that have training documents.

    Raises:
        ValueError: no domain has a document long enough, or a model without summary tokens has no label.
    """
    label = label or default_label(model.config)
    windows = Windows.of(
        documents_by_domain,
        segment_length=model.segment_length,
        contexts=contexts,
        max_windows=max_windows,
        in_domain=in_domain,
    )
    return measure(model, windows, label)


def evaluate_checkpoint(
    checkpoint: Path,
    data: Path,
    *,
    cache: Path,
    split: str = "test",
    beside: Mapping[str, Path] | None = None,
    contexts: Sequence[int] = CONTEXTS,
    max_windows: int = MAX_WINDOWS,
    device: torch.device | str | None = None,
    label: str | None = None,
) -> Evaluation:
    """Measure a checkpoint and others beside it, on the documents of a split.

    In the dtype that each is stored in, or float32 for bfloat16 where the device does not compute in it.

    Models in the checkpoint's own `baselines.json` are added as they were recorded, but for labels measured now; where
    they were recorded on other windows they are left out, with a warning.

    Args:
        data: a folder of files `<domain>.<split>.*`, or one file. A domain with a `train` file there is in-domain.
        cache: of tokenised documents.
        beside: by label, a checkpoint to measure too, or a .json that `Evaluation.write` wrote: its model of that
            label, or else its only one.
        label: of the checkpoint; None takes `AutoCompressor` or `RMT`, as its configuration says.

    Raises:
        ValueError: tokenizers, segment lengths or windows differ, a label is missing or taken, or no document is long
            enough.
    """
    directories = _directories(checkpoint, label, beside or {})
    tokenizer = _shared_tokenizer(directories)
    documents = documents_by_domain(data, split, tokenizer, cache)
    windows = Windows.of(
        documents,
        segment_length=_shared_segment_length(directories),
        contexts=contexts,
        max_windows=max_windows,
        in_domain=[name for name in documents if has_training_file(data, name)],
    )
    recorded = windows.unscored()  # read before anything is measured: what cannot be compared is refused at once
    for name, path in (beside or {}).items():
        if path.suffix == ".json":
            recorded = recorded.merged(_recorded_model(path, name))
    recorded = _with_baselines(recorded, resolve(checkpoint) / BASELINES, measured=directories.keys())
    evaluation = windows.unscored()
    for name, directory in directories.items():
        evaluation = evaluation.merged(measure(loaded(directory, device), windows, name))
    return evaluation.merged(recorded)


def default_label(config: SummaryConfig) -> str:
    """What a model is called by its kind; ValueError for one without summary tokens."""
    if config.summary_length == 0:
        raise ValueError("summary_length is 0: a model without summary tokens needs a label")
    return AUTOCOMPRESSOR if config.accumulate_summary else RMT


# --- checkpoints


def _directories(checkpoint: Path, label: str | None, beside: Mapping[str, Path]) -> dict[str, Path]:
    """What is measured, by label, the checkpoint first."""
    directory = resolve(checkpoint)
    label = label or default_label(_config(directory))
    if label in beside:
        raise ValueError(f"the label {label!r} is the checkpoint's own; what stands beside it needs another")
    return {label: directory} | {name: resolve(path) for name, path in beside.items() if path.suffix != ".json"}


def loaded(directory: Path, device: torch.device | str | None) -> AutoCompressor:
    model = AutoCompressor.from_pretrained(directory, device=device)
    if model.dtype is torch.bfloat16 and not computes_in_bfloat16(model.device):
        return model.float()
    return model


def _config(directory: Path) -> SummaryConfig:
    """A checkpoint's configuration, without loading the model."""
    parts = read_parts(directory)
    if parts.has_segment_length:
        return parts.config
    segment_length = Positions.of(AutoConfig.from_pretrained(plain_base(directory))).default_segment_length()
    return replace(parts.config, segment_length=segment_length)


def _shared_tokenizer(directories: Mapping[str, Path]) -> PreTrainedTokenizerBase:
    tokenizers = {label: AutoTokenizer.from_pretrained(plain_base(path)) for label, path in directories.items()}
    (first, tokenizer), *others = tokenizers.items()
    for label, other in others:
        if tokenizer_identity(other) != tokenizer_identity(tokenizer):
            raise ValueError(f"{label} has another tokenizer than {first}: their losses cannot be compared")
    return tokenizer


def _shared_segment_length(directories: Mapping[str, Path]) -> int:
    lengths = {label: _config(directory).segment_length for label, directory in directories.items()}
    if len(set(lengths.values())) > 1:
        described = ", ".join(f"{label} {length}" for label, length in lengths.items())
        raise ValueError(f"the models have different segment lengths: {described}")
    return next(iter(lengths.values()))


# --- what was recorded


def _recorded_model(path: Path, label: str) -> Evaluation:
    """One model of a written evaluation, under the label."""
    found = Evaluation.read(path)
    if label not in found.models and len(found.models) != 1:
        raise ValueError(f"{path} has the models {', '.join(found.models)}; none is labelled {label!r}")
    return found.only({label if label in found.models else next(iter(found.models)): label})


def _with_baselines(recorded: Evaluation, path: Path, *, measured: Collection[str]) -> Evaluation:
    if not path.is_file():
        return recorded
    found = Evaluation.read(path)
    taken = {*measured, *recorded.models}
    try:
        return recorded.merged(found.only({label: label for label in found.models if label not in taken}))
    except ValueError as error:
        logger.warning("the models recorded in %s are left out: %s", path, error)
        return recorded
