"""What a reader can be given of documents in the positions that their vectors would take."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from training.bench.prefix import Prefix
from training.bench.reader import Reader, Summaries, joined
from training.bench.rivals.kv_selection import by_attention, by_key_norm
from training.bench.tally import NONE

FULL, END, SURPRISING = "full text", "end of the text", "most surprising tokens"
ANCHORS, VECTORS = "anchors as text", "vectors"
KEY_NORM, ATTENTION = "keys and values by key norm", "keys and values by attention"
WAYS = (FULL, VECTORS, ANCHORS, SURPRISING, END, KEY_NORM, ATTENTION)


@dataclass(frozen=True)
class Form:
    """How documents are given to a reader: raw tokens, (B, L), or else vectors, (B, P, D)."""

    ids: Tensor | None = None
    soft_prompt: Tensor | None = None

    @property
    def positions(self) -> int:
        given = self.soft_prompt if self.ids is None else self.ids
        return 0 if given is None else given.shape[1]


def forms(reader: Reader, context: Tensor) -> dict[str, Form]:
    """Documents, (B, L) ids, in full and in every form that has as many positions as the vectors have."""
    found = {NONE: Form(), FULL: Form(context)}
    rows = reader.newest(context, (context.shape[1] // reader.model.segment_length,))
    for summaries in rows.values():
        prompt = joined(summaries)
        assert prompt is not None, "nothing was left out"
        kept = min(prompt.shape[1], context.shape[1])
        found |= {VECTORS: Form(soft_prompt=prompt), END: Form(context[:, -kept:])}
        found |= {SURPRISING: Form(most_surprising(reader, context, kept))}
        at_anchors = anchored(context, summaries, reader.model.segment_length)
        if at_anchors is not None:
            found[ANCHORS] = Form(at_anchors)
    return found


@torch.inference_mode()
def most_surprising(reader: Reader, ids: Tensor, kept: int) -> Tensor:
    """The tokens of (B, L) that the untouched base predicted worst within their segments, (B, kept), in their order."""
    model = reader.model
    segments = ids.to(model.device).split(model.segment_length, dim=1)
    losses = torch.cat([model.segment_losses(each, model.plain_states(each)[0]) for each in segments], dim=1)
    places = losses.topk(kept, dim=1).indices.sort(dim=1).values
    return ids.gather(1, places.to(ids.device))


def anchored(ids: Tensor, rows: Summaries, segment_length: int) -> Tensor | None:
    """The tokens of (B, L) that vectors stand at, (B, P); None where they stand at none."""
    places = [
        [one.anchors.cpu() + number * segment_length for number, one in enumerate(row) if one.anchors is not None]
        for row in rows
    ]
    if not all(places):
        return None
    return ids.gather(1, torch.stack([torch.cat(row) for row in places]).to(ids.device))


def selections(reader: Reader, ids: Tensor, kept: int) -> Iterator[tuple[str, Prefix]]:
    """A document, (L,) ids, as so many of its keys and values; nothing where it is too long to be read at once."""
    if reader.can_mix() and reader.fits(0, len(ids)):
        yield KEY_NORM, by_key_norm(reader, ids, kept)
        yield ATTENTION, by_attention(reader, ids, kept)
