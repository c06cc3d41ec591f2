"""The ways to write and to train that `benchmarks.ablations` compares."""

from dataclasses import dataclass

import torch
from torch import Tensor

from model.compressors import Reading, SegmentSummary
from model.compressors.anchored import Anchored
from training.recipe import Distillation

DEFAULT = Distillation(context_tokens=1, cut_tokens=1)  # for its shares
RATIO = 8


@dataclass(frozen=True)
class Trial:
    """A way to write and to train; the default is the one that is shipped.

    Attributes:
        writer: `anchored`; `uniform`, anchors at equal distances; `appended`, the anchors once more after the segment,
            and their states read there; or `summary tokens`, with LoRA where they are written, too.
        loss: `kl` to the base with the text, or `next`, the cross-entropy of the tail; of summary tokens of all tokens.
        is_cut: the context is two segments; `accumulates`: the second is read with the vectors of the first.
    """

    name: str
    writer: str = "anchored"
    loss: str = "kl"
    ratio: int = RATIO
    has_bridge: bool = True
    has_spans: bool = True
    has_lora: bool = True
    reciting: float = DEFAULT.reciting
    asking: float = DEFAULT.asking
    is_cut: bool = False
    accumulates: bool = False


TRIALS = (
    Trial("anchored, as shipped"),
    Trial("without the means over spans", has_spans=False),
    Trial("without the map: embeddings of the anchors", has_bridge=False),
    Trial("without LoRA", has_lora=False),
    Trial("anchors at equal distances", writer="uniform"),
    Trial("cross-entropy in place of KL", loss="next"),
    Trial("anchors appended, states read there", writer="appended"),
    Trial("summary tokens, the paper's loss", writer="summary tokens", loss="next"),
    Trial("summary tokens, KL", writer="summary tokens"),
    Trial("no reciting, no questions", reciting=0.0, asking=0.0),
    Trial("half reciting, no questions", reciting=0.5, asking=0.0),
    Trial("half questions, no reciting", reciting=0.0, asking=0.5),
    Trial("4 tokens a vector", ratio=4),
    Trial("16 tokens a vector", ratio=16),
    Trial("32 tokens a vector", ratio=32),
    Trial("two segments, read alone", is_cut=True),
    Trial("two segments, accumulated", is_cut=True, accumulates=True),
)


class Uniform(Anchored):
    """Anchors at equal distances; of their order only that it is one."""

    def places(self, reading: Reading) -> list[list[int]]:
        length = reading.input_ids.shape[1]
        count = self._num_vectors(length)
        return [[(2 * place + 1) * length // (2 * count) for place in range(count)]] * len(reading.input_ids)

    def write(self, reading: Reading) -> list[SegmentSummary]:
        places = torch.tensor(self.places(reading))
        vectors = self._bridge(at(reading.embedded, places), self._bridge.features(reading.states, places))
        return [SegmentSummary(each) for each in vectors.to(reading.embedded.dtype)]


def at(sequence: Tensor, places: Tensor) -> Tensor:
    """The elements (B, S, F) of a sequence (B, L, F) at these places, (B, S)."""
    return sequence.gather(1, places[..., None].expand(-1, -1, sequence.shape[-1]))
