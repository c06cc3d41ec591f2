"""What turns a base's reading of a segment into summary vectors: the seam between methods of compression."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Reading:
    """What the base computed of segments, B of them.

    Attributes:
        input_ids: (B, L). embedded: their input embeddings, (B, L, D).
        states: after each of the layers that the writer names, (B, L, D) each; the last layer's after the final norm.
        losses: of each token under the base's prediction of it, (B, L), in nats; the first, which nothing predicts, has
            `FIRST_LOSS`. None unless the writer asks for them.
        appended: last hidden states at the positions that the writer appended, (B, S, D); S may be 0.
        lengths: the tokens of each, B of them; what stands behind is padding. With positions appended there is none.
    """

    input_ids: Tensor
    embedded: Tensor
    states: tuple[Tensor, ...]
    losses: Tensor | None
    appended: Tensor
    lengths: tuple[int, ...]


FIRST_LOSS = 5.0  # nats: about what a language model gives a token that it knows nothing of


@dataclass(frozen=True)
class SegmentSummary:
    """The summary vectors of one segment, in the order of its text.

    Attributes:
        vectors: (S, D).
        ranks: (S,) int64, the most important vector's is 0; None where the writer knows no order of importance.
        anchors: (S,) int64, ascending: the token of the segment that a vector stands at; None where it stands at none.
    """

    vectors: Tensor
    ranks: Tensor | None = None
    anchors: Tensor | None = None

    def __len__(self) -> int:
        return self.vectors.shape[0]

    def on_cpu(self) -> "SegmentSummary":
        """A copy on the CPU, that holds nothing of what it was made from."""
        ranks, anchors = (None if part is None else part.to("cpu", copy=True) for part in (self.ranks, self.anchors))
        return SegmentSummary(self.vectors.detach().to("cpu", copy=True), ranks, anchors)

    def thinned(self, num_vectors: int) -> "SegmentSummary":
        """The most important vectors, so many or all there are, in the order of the text.

        Raises:
            ValueError: fewer are wanted than there are, and there is no order of importance.
        """
        if num_vectors >= len(self):
            return self
        if self.ranks is None:
            raise ValueError(f"{num_vectors} of {len(self)} vectors are wanted; they have no order of importance")
        kept = self.ranks.argsort()[:num_vectors].sort().values  # not a mask: that would wait for a device
        anchors = None if self.anchors is None else self.anchors[kept]
        return SegmentSummary(self.vectors[kept], self.ranks[kept], anchors)


class Writer(Protocol):
    """Writes segments into vectors. A method of compression is one of these and its name in `WRITERS`.

    Attributes:
        layers: numbers of the base's layers whose states it reads, from 1; as many as the base has is the last.
        reads_losses: whether it needs the losses of the segment's tokens, and so the logits.
        is_ordered: whether its vectors have an order of importance.
    """

    layers: tuple[int, ...]
    reads_losses: bool
    is_ordered: bool

    @property
    def num_appended(self) -> int:
        """Positions that it puts after a segment."""
        ...

    def appended(self) -> Tensor:
        """What stands there, (num_appended, D) input embeddings."""
        ...

    def write(self, reading: Reading) -> list[SegmentSummary]:
        """The summary of each of the B segments; gradients flow to the writer's own parameters."""
        ...
