"""A model whose attention is ours: the positions of many sequences are one row for its linear layers."""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import AttentionInterface

from model import AutoCompressor
from server.engine.torch.attention import Kernels, PackedAttention, Span
from server.engine.torch.finite import require_finite
from server.engine.torch.fused import FusedDecoder, can_fuse
from server.engine.torch.kv_cache import KvPool
from server.engine.torch.memory import let_go_of_checkpoint
from server.engine.torch.packed_linear import PackedLayers
from server.engine.torch.roles import Roles, give_roles

logger = logging.getLogger(__name__)

CHECK_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.01}  # of the largest logit
CHECK_LENGTHS = (5, 8)  # tokens of the two sequences that are compared at the start


class PackedModel:
    """Runs spans packed, attention span by span, keys and values in `pool`'s rows or in strips."""

    def __init__(
        self,
        model: AutoCompressor,
        kernels: Kernels,
        *,
        num_rows: int,
        max_tokens: int,
        layers: PackedLayers | None = None,
        merges_adapter: bool = True,
        fuses: bool = True,
    ) -> None:
        """Take over the model's attention, and see once that its results stay what they were.

        Args:
            layers: of other models, whose weights are this one's as far as they are the same; None for none.
            merges_adapter: as `give_roles`. fuses: have `FusedDecoder` run an architecture that it knows.

        Raises:
            ValueError: an architecture whose attention the engine cannot take over, or weights with NaN in them.
        """
        self.model = model.eval()
        self.pool = KvPool(num_rows=num_rows, max_tokens=max_tokens)
        self._num_rows, self._max_tokens = num_rows, max_tokens
        self._attention = PackedAttention(self.pool, kernels)
        self._roles = Roles()
        self._layers = layers or PackedLayers()
        self._merges_adapter, self._fuses = merges_adapter, fuses
        self._fused: FusedDecoder | None = None
        self._take_over_attention()

    def forward(
        self,
        embeds: Tensor,
        positions: Tensor,
        spans: Sequence[Span],
        *,
        is_reading: list[bool],
        layers: tuple[int, ...] = (),
    ) -> tuple[Tensor, list[Tensor]]:
        """Of a packed batch the last hidden states (T, D), and those after each of the layers.

        Args:
            is_reading: of each span, whether it reads vectors.
        """
        self._roles.begin([span.length for span in spans], is_reading=is_reading, device=embeds.device)
        with self._attention.of(spans, embeds.device):
            if self._fused is not None:
                return self._fused.forward(embeds, positions, self._attention, layers)
            output = self.model.base.base_model(
                inputs_embeds=embeds[None],
                position_ids=positions[None],
                output_hidden_states=bool(layers),
                use_cache=False,
            )
        hidden: Tensor = output.last_hidden_state[0]
        return hidden, [output.hidden_states[layer][0] for layer in layers]

    @torch.inference_mode()
    def _take_over_attention(self) -> None:
        """Put ours in the place of the model's attention, and compare: two sequences packed, then a decode of both."""
        model, name = self.model, type(self.model.base).__name__
        require_finite(model)
        if self._max_tokens < max(CHECK_LENGTHS):
            raise ValueError(f"max_sequence_tokens is {self._max_tokens}; at least {max(CHECK_LENGTHS)} are needed")
        vocabulary = model.base.config.vocab_size
        # from the middle: on control tokens, which stand first, logits are large and move with every rounding
        ids = (torch.arange(sum(CHECK_LENGTHS), device=model.device) + vocabulary // 3) % vocabulary
        sequences = ids.split(CHECK_LENGTHS)
        # of a model with an adapter, the second is read with it
        reads = [False, model.adapter is not None]
        if model.adapter is not None:  # before the comparison, which is not about weights that are merged in bfloat16
            give_roles(model.base, model.adapter, self._roles, merges=self._merges_adapter)
        expected = torch.stack(
            [self._reference_logits(ids, is_reading=reading) for ids, reading in zip(sequences, reads, strict=True)]
        )  # (2, V)
        key = f"autocompressor-{id(self)}"
        AttentionInterface.register(key, self._attention)
        try:
            model.base.set_attn_implementation(key)
            if self._fuses and can_fuse(model.base.base_model):
                self._fused = FusedDecoder(model.base.base_model, self._roles, self._layers)
            self._layers.pack(model.base)
            actual = self._packed_logits(sequences, reads)
        except RuntimeError as error:  # torch's for a lack of memory, on the CPU
            raise ValueError(
                f"a KV pool of {self._num_rows} rows of {self._max_tokens} positions does not fit the device, "
                f"lower max_running_sequences or max_sequence_tokens: {error}"
            ) from error
        except (ValueError, AttributeError, TypeError, AssertionError) as error:
            raise ValueError(f"the engine cannot run {name}: {error}") from error
        # the root mean square, as rounding moves single logits by more; of one row only, the first alone
        difference = float((actual - expected[: len(actual)]).float().square().mean().sqrt())
        if not difference <= CHECK_TOLERANCE[model.dtype] * max(1.0, float(expected.abs().max())):
            raise ValueError(f"the engine cannot run {name}: its logits are {difference:.3g} off the model's own")
        let_go_of_checkpoint(model)
        logger.debug("attention taken over; logits differ by %.2g", difference)

    def _reference_logits(self, sequence: Tensor, *, is_reading: bool) -> Tensor:
        model, ids = self.model, sequence[None]
        positions = model.positions.ids(torch.ones_like(ids), 0, 0)
        self._roles.begin([len(sequence)], is_reading=[is_reading], device=model.device)
        output = model.base.base_model(inputs_embeds=model.embed(ids), position_ids=positions, use_cache=False)
        return model.logits(output.last_hidden_state[0, -1])

    def _packed_logits(self, sequences: Sequence[Tensor], reads: list[bool]) -> Tensor:
        """Logits after the last token of each that has a row, (N, V): the others prefilled together, it decoded."""
        model = self.model
        heads = [sequence[:-1] for sequence in sequences]
        places = torch.cat([model.positions.ids(torch.ones_like(head)[None], 0, 0)[0] for head in heads])
        rows = [self.pool.row(index) for index in range(self._num_rows)]
        prefills = [
            Span(len(head), rows[index], num_kept=len(head)) if index < len(rows) else Span(len(head))
            for index, head in enumerate(heads)
        ]
        self.forward(model.embed(torch.cat(heads)[None])[0], places, prefills, is_reading=reads)
        kept = sequences[: self._num_rows]
        last = torch.stack([sequence[-1] for sequence in kept])
        places = torch.tensor([model.positions.of_token(len(sequence) - 1, 0) for sequence in kept])
        decodes = [Span(1, rows[index], len(sequence) - 1, 1, row=index) for index, sequence in enumerate(kept)]
        hidden, _ = self.forward(
            model.embed(last[None])[0], places.to(model.device), decodes, is_reading=reads[: len(kept)]
        )
        return model.logits(hidden)
