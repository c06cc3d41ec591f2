"""The ways to write and to train that `benchmarks.ablations` compares."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from model import AutoCompressor
from model.compressors import Reading, SegmentSummary
from model.compressors.anchored import Anchored, at
from model.compressors.anchors import by_importance
from training.bases.adapters import Adapted
from training.recipes.recipe import Distillation

DEFAULT = Distillation(context_tokens=1, cut_tokens=1)  # for its shares
RATIO = 8


@dataclass(frozen=True)
class Trial:
    """A way to write and to train; the default is the shipped one but for what counts of a tail, which is all of it.

    Attributes:
        writer: `anchored`; `uniform`, anchors at equal distances; `appended`, the anchors once more after the segment,
            and their states read there; or `summary tokens`, with LoRA where they are written, too.
        loss: `kl` to the base with the text; `words`, that and the cross-entropy of answers and recited runs, which
            alone count of their tails; or `next`, the cross-entropy of the tail, of summary tokens of all tokens.
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
    Trial("anchored, KL on all of the tail"),
    Trial("as shipped: answers alone, KL and their words", loss="words"),
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


@dataclass
class Reader:
    """One trial's model, and how it reads a context and what follows."""

    trial: Trial
    adapted: Adapted
    context: int

    @property
    def model(self) -> AutoCompressor:
        return self.adapted.model

    @torch.no_grad()
    def teach(self, tokens: Tensor) -> Tensor:
        """Logits of the untouched base for the tail, the context read in full."""
        with self._plain():
            hidden = self.model.base.base_model(input_ids=tokens, use_cache=False).last_hidden_state
            return self.model.logits(hidden[:, self.context - 1 : -1])

    @torch.no_grad()
    def without(self, tokens: Tensor) -> Tensor:
        """As `teach`, of the tail after one token of the context."""
        with self._plain():
            hidden = self.model.base.base_model(input_ids=tokens[:, self.context - 1 :], use_cache=False)
            return self.model.logits(hidden.last_hidden_state[:, :-1])

    def student(self, tokens: Tensor) -> Tensor:
        """Logits for the tail after the context's vectors and its last token."""
        rest = tokens[:, self.context - 1 : -1]
        hidden, _ = self.model.run_segment(rest, torch.ones_like(rest), self.vectors(tokens), is_compressed=False)
        return self.model.logits(hidden)

    def vectors(self, tokens: Tensor) -> Tensor:
        """(B, P, D) of the context's segments, one after the other."""
        before = self.model.empty_soft_prompt(len(tokens))
        pieces = tokens[:, : self.context].split(self.context // 2 if self.trial.is_cut else self.context, dim=1)
        for piece in pieces:
            if self.trial.writer == "summary tokens":
                _, made = self.model.run_segment(piece, torch.ones_like(piece), before, is_compressed=True)
            elif self.trial.writer == "appended":
                made = self._appended(piece)
            else:
                made = self._written(piece, before)
            before = torch.cat([before, made.to(before.dtype)], dim=1)
        return before

    def _written(self, piece: Tensor, before: Tensor) -> Tensor:
        model = self.model
        with torch.no_grad():
            if not self.trial.accumulates or not before.shape[1]:
                _, states = model.plain_states(piece)
            else:
                with model.reads_vectors(has_vectors=True):
                    output = model.base.base_model(
                        inputs_embeds=torch.cat([before, model.embed(piece)], dim=1),
                        output_hidden_states=True,
                        use_cache=False,
                    )
                states = tuple(output.hidden_states[layer][:, before.shape[1] :] for layer in model.writer.layers)
        return torch.stack([summary.vectors for summary in model.write(piece, states)])

    def _appended(self, piece: Tensor) -> Tensor:
        """The map of states at the anchors where they stand a second time, and of the same means over spans."""
        model, writer = self.model, self.model.writer
        assert isinstance(writer, Anchored)
        with torch.no_grad():
            _, states = model.plain_states(piece)
            losses = model.segment_losses(piece, states[-1])
            count = model.config.num_vectors(piece.shape[1])
            rows = zip(piece.tolist(), losses.tolist(), strict=True)
            places = torch.tensor([sorted(by_importance(*row, writer._vocabulary, count)) for row in rows])
            embedded = model.embed(piece)
            anchors = at(embedded, places)
            output = model.base.base_model(
                inputs_embeds=torch.cat([embedded, anchors], dim=1), output_hidden_states=True, use_cache=False
            )
            again = tuple(output.hidden_states[layer][:, -count:] for layer in writer.layers)
            features = model.bridge.features(states, places)
            half = features.shape[-1] // 2
            every = torch.arange(count).expand(len(piece), -1)
            features = torch.cat([model.bridge.features(again, every)[..., :half], features[..., half:]], dim=-1)
        return model.bridge(anchors, features)

    def _plain(self) -> Any:
        if self.adapted.adapters is not None:
            return self.adapted.adapters.disable_adapter()
        return self.model.reads_vectors(has_vectors=False)
