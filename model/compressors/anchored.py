"""Anchored vectors: embeddings of a segment's own telling words, and what the base's states add to them.

Related: SAC (arXiv 2510.08907), which compresses into chosen tokens of the text, and mean pooling (arXiv 2510.20797).
Unlike summary tokens these mean something to the base before any training, and what trains is small: the bridge here,
and an adapter that is on where vectors are read. The base that writes stays as it is.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from model.base import embedding_width, state_widths
from model.compressors.anchors import Vocabulary, by_importance
from model.compressors.writer import Reading, SegmentSummary


def default_layers(num_layers: int) -> tuple[int, ...]:
    """Two fifths up, where a word's meaning is, and the last, where what follows is."""
    return (max(1, num_layers * 2 // 5), num_layers)


class Bridge(nn.Module):
    """From the base's states to what is added to an anchor's embedding; nothing before it is trained.

    Attributes:
        states: a linear map of the states at the anchor and of their mean over the span since the anchor before.
        gain: of the embedding.
    """

    def __init__(self, widths: tuple[int, ...], embedding_width: int, scale: float) -> None:
        """Args: widths: of the states. scale: the root mean square of the base's embeddings, which states are given."""
        super().__init__()
        self.states = nn.Linear(2 * sum(widths), embedding_width)
        self.gain = nn.Parameter(torch.ones(()))
        self.scale = scale
        with torch.no_grad():
            self.states.weight.zero_()
            self.states.bias.zero_()

    @classmethod
    def of(cls, base: PreTrainedModel, layers: tuple[int, ...]) -> "Bridge":
        """A new one from the states of these layers of a base; ValueError where it has no such layer."""
        is_shape = base.device.type == "meta"
        scale = 1.0 if is_shape else float(base.get_input_embeddings().weight.detach().float().std())
        return cls(state_widths(base, layers), embedding_width(base), scale).to(base.device)

    def forward(self, embedded: Tensor, features: Tensor) -> Tensor:
        """(B, S, D) embeddings of the anchors and (B, S, F) features to (B, S, D) vectors, in float32."""
        vectors: Tensor = embedded.float() * self.gain + self.states(features)
        return vectors

    def features(self, states: tuple[Tensor, ...], places: Tensor) -> Tensor:
        """States at the anchors and their means over the spans that end there.

        Args:
            states: (B, L, H) each. places: (B, S), ascending; the last one again where a row has fewer.

        Returns:
            (B, S, F), in float32.
        """
        scaled = torch.cat([self._scaled(each) for each in states], dim=-1)  # (B, L, F / 2)
        sums = functional.pad(scaled.cumsum(dim=1), (0, 0, 1, 0))  # (B, L + 1, F / 2)
        before = functional.pad(places[:, :-1] + 1, (1, 0))  # where each span begins
        lengths = (places + 1 - before).clamp(min=1)[..., None]  # a place that comes again is padding
        spans = (at(sums, places + 1) - at(sums, before)) / lengths
        return torch.cat([at(scaled, places), spans], dim=-1)

    def _scaled(self, states: Tensor) -> Tensor:
        states = states.float()
        return states * (torch.rsqrt(states.square().mean(dim=-1, keepdim=True) + 1e-6) * self.scale)


class Anchored:
    """Writes a segment into vectors at its most telling words, in the order of the text, ranked by importance.

    A whole segment gives `summary_length` vectors, a shorter one as many in proportion.
    """

    reads_losses = True
    is_ordered = True
    num_appended = 0

    def __init__(
        self,
        bridge: Bridge,
        vocabulary: Vocabulary,
        layers: tuple[int, ...],
        num_vectors: Callable[[int], int],
    ) -> None:
        """Args: num_vectors: of a segment of so many tokens, `SummaryConfig.num_vectors`."""
        self.layers = layers
        self._bridge = bridge
        self._vocabulary = vocabulary
        self._num_vectors = num_vectors

    def appended(self) -> Tensor:
        return self._bridge.states.weight.new_zeros(0, self._bridge.states.out_features)

    def write(self, reading: Reading) -> list[SegmentSummary]:
        assert reading.losses is not None
        rows = zip(reading.input_ids.tolist(), reading.losses.tolist(), reading.lengths, strict=True)
        orders = [
            by_importance(ids[:length], losses[:length], self._vocabulary, self._num_vectors(length))
            for ids, losses, length in rows
        ]
        most, behind = max(map(len, orders)), reading.input_ids.shape[1]
        ranked = torch.tensor([order + [behind] * (most - len(order)) for order in orders])  # (B, S)
        places, ranks = ranked.to(reading.input_ids.device).sort(dim=1)
        places = places.clamp(max=behind - 1)
        vectors = self._bridge(at(reading.embedded, places), self._bridge.features(reading.states, places))
        vectors = vectors.to(reading.embedded.dtype)
        return [
            SegmentSummary(*(part[: len(order)] for part in parts))
            for order, *parts in zip(orders, vectors, ranks, places, strict=True)
        ]


def at(sequence: Tensor, places: Tensor) -> Tensor:
    """The elements (B, S, F) of a sequence (B, L, F) at these places, (B, S)."""
    return sequence.gather(1, places[..., None].expand(-1, -1, sequence.shape[-1]))
