"""What it costs to read a stored document up to the first token of an answer."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from training.bench.prefix import Ending, Prefix
from training.bench.reader import Reader
from training.bench.rivals.kv_selection import cache_bytes
from training.bench.rivals.substitutes import FULL, VECTORS, WAYS, Form, forms, selections
from training.bench.tally import NONE
from training.evaluation.windows import DomainWindows
from training.planning.flops import matrices, output_matrix
from training.planning.shapes import DecoderShape

TIMED = 8  # documents; the first is read once before
TOKEN_ID_BYTES = 4
HELD = "full text, keys and values kept"
COSTED = (NONE, FULL, HELD, *WAYS[1:])


@dataclass(frozen=True)
class Costs:
    """Of a form, by document: positions of the stored part, FLOPs and seconds to the first token, stored bytes."""

    positions: list[int] = field(default_factory=list)
    flops: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    num_bytes: list[int] = field(default_factory=list)

    def add(self, *, positions: int, flops: int, seconds: float, num_bytes: int) -> None:
        self.positions.append(positions)
        self.flops.append(flops)
        self.seconds.append(seconds)
        self.num_bytes.append(num_bytes)


def costs_of(reader: Reader, windows: Mapping[str, DomainWindows], num_after: int) -> dict[str, Costs]:
    """Costs of every form that fits, of a few documents, the last `num_after` tokens of each being the prompt."""
    found: dict[str, Costs] = {}
    some = _in_turns(windows)
    for number, tokens in enumerate([some[0], *some]):
        context, prompt = tokens[:, :-num_after], tokens[:, -num_after:]
        given = forms(reader, context)
        for name, form in given.items():
            seconds = first_token_seconds(reader, form, prompt)
            if seconds is None or number == 0:  # the first pass of a process is slower
                continue
            found.setdefault(name, Costs()).add(
                positions=form.positions,
                flops=prefill_flops(reader, form.positions + num_after, has_vectors=form.soft_prompt is not None),
                seconds=seconds,
                num_bytes=len(reader.decode(context[0]).encode()) if name == FULL else stored_bytes(form),
            )
        for name, held in _held(reader, context[0], given[VECTORS].positions):
            seconds, positions = seconds_after(held, prompt[0]), held.num_cached or held.num_tokens
            if seconds is None or number == 0:
                continue
            found.setdefault(name, Costs()).add(
                positions=positions,
                flops=prefill_flops(reader, num_after, num_held=positions),
                seconds=seconds,
                num_bytes=cache_bytes(reader.model, positions),
            )
    return found


def _held(reader: Reader, ids: Tensor, kept: int) -> Iterator[tuple[str, Prefix]]:
    """What keeps keys and values of a document, (L,) ids: all, or so many of them."""
    if reader.fits(0, len(ids)):
        yield HELD, Prefix.read(reader, ids)
    yield from selections(reader, ids, kept)


def prefill_flops(reader: Reader, positions: int, *, has_vectors: bool = False, num_held: int = 0) -> int:
    """FLOPs of reading so many positions and predicting one token; a multiplication and an addition are 2.

    Args:
        num_held: positions before them whose keys and values are there.
    """
    model = reader.model
    weights = sum(weight.numel() for weight in matrices(model.base.base_model))
    if has_vectors and model.adapter is not None:
        weights += sum(weight.numel() for weight in model.adapter.parameters())
    pairs = positions * num_held + positions * (positions + 1) // 2  # that the causal mask lets through
    attention = 4 * DecoderShape.of(model).query_width * model.base.config.num_hidden_layers
    total: int = 2 * weights * positions + attention * pairs + 2 * output_matrix(model).numel()
    return total


def stored_bytes(form: Form) -> int:
    """Of one document: vectors in the model's format, tokens as 32-bit ids."""
    if form.soft_prompt is not None:
        return form.soft_prompt[0].numel() * form.soft_prompt.element_size()
    return form.positions * TOKEN_ID_BYTES


def first_token_seconds(reader: Reader, form: Form, prompt: Tensor) -> float | None:
    """Wall-clock seconds from a stored form and a prompt, (1, L), to the prediction of a token; None if it is too long.

    Vectors are made when a document is stored, and that is no part of it.
    """
    ids = prompt if form.ids is None else torch.cat([form.ids, prompt], dim=1)
    start = time.perf_counter()
    found = reader.losses(ids, 1, form.soft_prompt)
    if found is None:
        return None
    found.sum().item()  # a GPU has not computed it before it is asked for
    return time.perf_counter() - start


def seconds_after(held: Prefix, prompt: Tensor) -> float | None:
    """The same from kept keys and values, with a prompt of (L,) ids."""
    ending, start = Ending(prompt.tolist(), 1), time.perf_counter()
    found = held.losses([ending])
    if found is None:
        return None
    found[0].sum().item()
    return time.perf_counter() - start


def _in_turns(windows: Mapping[str, DomainWindows]) -> list[Tensor]:
    """At most `TIMED` windows, (1, L) each: the first of every domain, then the second of every domain, and so on."""
    most = max(map(len, windows.values()))
    turns = [each.tokens[turn] for turn in range(most) for each in windows.values() if turn < len(each)]
    return [torch.from_numpy(tokens)[None] for tokens in turns[:TIMED]]
