"""One segment: how the base reads it behind a soft prompt, and how its summary vectors are written."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from model.adapter import Adapter
from model.base import embedding_width, output_layer, require_supported
from model.compressors import (
    FIRST_LOSS,
    WRITERS,
    Anchored,
    Bridge,
    Reading,
    SegmentSummary,
    SummaryTokens,
    Vocabulary,
    Writer,
    new_embeddings,
)
from model.config import SummaryConfig
from model.positions import Positions

OWN_WEIGHTS = {"embed_summary.weight": "summary embeddings"}
LOSSES_TOGETHER = 128  # tokens
NORMALISED_TOGETHER = 8  # tokens, on a CPU: their logits in float32 stay in its cache, which is five times as fast


class SegmentModel(nn.Module):
    """A base, what writes its summary vectors, and where there is one the adapter that reads them.

    With summary tokens, a segment runs as `[soft prompt | segment tokens | summary tokens]` under causal attention; the
    last hidden states at the summary tokens, after the final norm, are its summary vectors. Other writers are in
    `model.compressors`. `AutoCompressor` goes from segment to segment.

    Attributes:
        writer: what makes vectors of a segment that was read. Its weights are `embed_summary`, of summary tokens, or
            `bridge`, of anchored vectors.
        adapter: is on where a soft prompt is read, and off where a segment is read to be compressed and where there is
            no soft prompt: there the model is the untouched base. None for a model without.
    """

    def __init__(
        self,
        base: PreTrainedModel,
        config: SummaryConfig,
        tokenizer: PreTrainedTokenizerBase | None = None,
        adapter: Adapter | None = None,
    ) -> None:
        """Take ownership of `base`, which has `adapter` in it; ValueError where its architecture cannot be wrapped."""
        super().__init__()
        require_supported(base)
        self.base = base
        self.config = config
        self.tokenizer = tokenizer
        self.adapter = adapter
        self.positions = Positions.of(base.config)
        self.hidden_size = embedding_width(base)
        self.writer = self._new_writer()

    def _new_writer(self) -> Writer:
        config, base = self.config, self.base
        if config.compressor == "summary_tokens":
            self.embed_summary = new_embeddings(base, config.summary_length)
            return SummaryTokens(self.embed_summary)
        if config.compressor == "anchored":
            self.bridge = Bridge.of(base, config.layers)
            vocabulary = Vocabulary.of(self.tokenizer, base.config.vocab_size)
            return Anchored(self.bridge, vocabulary, config.layers, config.num_vectors)
        raise ValueError(f"the compressor {config.compressor!r} is not known; there are {', '.join(WRITERS)}")

    @property
    def summary_length(self) -> int:
        return self.config.summary_length

    @property
    def accumulate_summary(self) -> bool:
        return self.config.accumulate_summary

    @property
    def segment_length(self) -> int:
        return self.config.segment_length

    @property
    def max_positions(self) -> int:
        return self.positions.max_positions

    @property
    def device(self) -> torch.device:
        device: torch.device = self.base.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.base.dtype
        return dtype

    @torch.no_grad()
    def take_weights(self, weights: Mapping[str, Tensor], directory: Path) -> None:
        """Take over the writer's weights from a checkpoint; ValueError where they are of another shape."""
        for name, weight in self.own_weights().items():
            if name not in weights:
                continue
            if weights[name].shape != weight.shape:
                raise ValueError(
                    f"the {OWN_WEIGHTS.get(name, name)} in {directory} are {tuple(weights[name].shape)}; "
                    f"the model needs {tuple(weight.shape)}"
                )
            weight.copy_(weights[name])

    def own_weights(self) -> dict[str, nn.Parameter]:
        """The weights that are neither the base's nor the adapter's."""
        return {name: weight for name, weight in self.named_parameters() if not name.startswith("base.")}

    def run_segment(
        self, input_ids: Tensor, attention_mask: Tensor, soft_prompt: Tensor, *, is_compressed: bool
    ) -> tuple[Tensor, Tensor]:
        """Run one segment, and its summary tokens when it is to be compressed.

        Returns:
            Last hidden states of the segment's tokens, (B, L, D), and its summary vectors, (B, S, D) or (B, 0, D).
        """
        if is_compressed and self.config.reads_alone:
            return self._run_and_write_alone(input_ids, attention_mask, soft_prompt)
        num_appended = self.writer.num_appended if is_compressed else 0
        num_tokens, prompt_length = input_ids.shape[1], soft_prompt.shape[1]
        capacity = self.positions.capacity(prompt_length, num_appended)
        if num_tokens > capacity:
            raise ValueError(
                f"a segment of {num_tokens} tokens is longer than the {capacity} that fit the model's "
                f"{self.max_positions} positions with {prompt_length} soft prompt vectors before it "
                f"and {num_appended} summary tokens after it"
            )
        embedded = self.embed(input_ids)
        parts = [soft_prompt.to(embedded.dtype), embedded]
        if num_appended:
            summary_tokens = self.writer.appended().to(embedded.dtype)  # float32 where they train on a frozen base
            parts.append(summary_tokens.expand(input_ids.shape[0], -1, -1))
        with self.reads_vectors(prompt_length > 0):
            output = self.base.base_model(
                inputs_embeds=torch.cat(parts, dim=1),  # (B, P + L + S, D)
                attention_mask=functional.pad(attention_mask, (prompt_length, num_appended), value=1),
                position_ids=self.positions.ids(attention_mask, prompt_length, num_appended),
                use_cache=False,
            )
        hidden = output.last_hidden_state
        end = prompt_length + num_tokens
        return hidden[:, prompt_length:end], hidden[:, end:]

    def compress_segment(self, input_ids: Tensor, attention_mask: Tensor, soft_prompt: Tensor) -> Tensor:
        """A segment's summary vectors, (B, S, D), given what conditions it: of segments that are read alone, nothing.

        Raises:
            ValueError: the model makes none.
        """
        if self.summary_length == 0:
            raise ValueError("summary_length is 0: a plain language model makes no summary vectors")
        before = soft_prompt[:, :0] if self.config.reads_alone else soft_prompt
        _, vectors = self.run_segment(input_ids, attention_mask, before, is_compressed=True)
        return vectors

    def _run_and_write_alone(self, input_ids: Tensor, mask: Tensor, soft_prompt: Tensor) -> tuple[Tensor, Tensor]:
        """`run_segment`, the vectors written without the soft prompt: in a pass of their own unless it is empty."""
        if not bool(mask.all()):
            raise ValueError("segments that are read alone cannot be padded: compress rows of equal length")
        last, states = self.plain_states(input_ids)
        summaries = self.write(input_ids, states)
        vectors = torch.stack([summary.vectors for summary in summaries])  # (B, S, D)
        if soft_prompt.shape[1]:
            last, _ = self.run_segment(input_ids, mask, soft_prompt, is_compressed=False)
        return last, vectors

    def reads_vectors(self, has_vectors: bool) -> AbstractContextManager[None]:
        """Within the block the base is as it reads vectors, or as it is without any."""
        return nullcontext() if self.adapter is None else self.adapter.on(has_vectors)

    def plain_states(self, input_ids: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The untouched base's pass over (B, L) tokens.

        Returns:
            Last hidden states, (B, L, D), and the states that the writer reads, one (B, L, H) for each of its layers.
        """
        with self.reads_vectors(has_vectors=False):
            output = self.base.base_model(
                input_ids=input_ids, output_hidden_states=bool(self.writer.layers), use_cache=False
            )
        hidden_states = output.hidden_states
        return output.last_hidden_state, tuple(hidden_states[layer] for layer in self.writer.layers)

    def write(
        self,
        input_ids: Tensor,
        states: tuple[Tensor, ...],
        appended: Tensor | None = None,
        lengths: Sequence[int] | None = None,
    ) -> list[SegmentSummary]:
        """The summaries of segments that the base has read.

        Args:
            input_ids: (B, L). states: after the writer's layers, (B, L, H) each, as `plain_states` gives them.
            appended: last hidden states at what the writer appended, (B, S, D); None where it appends nothing.
            lengths: of each, its tokens, for segments with padding behind; a writer that appends takes none. None for
                segments of equal length.
        """
        embedded = self.embed(input_ids)
        losses = self.segment_losses(input_ids, states[-1]) if self.writer.reads_losses else None
        appended = embedded[:, :0] if appended is None else appended
        all_lengths = (input_ids.shape[1],) * len(input_ids) if lengths is None else tuple(lengths)
        return self.writer.write(Reading(input_ids, embedded, states, losses, appended, all_lengths))

    @torch.no_grad()
    def segment_losses(self, input_ids: Tensor, last_hidden: Tensor) -> Tensor:
        """The loss of each token of (B, L) under the base's prediction from the last hidden states, (B, L), in nats."""
        targets, before = input_ids[:, 1:].flatten(), last_hidden[:, :-1].flatten(0, 1)
        losses = torch.empty(targets.shape, device=targets.device)
        # a part at a time: logits of whole segments over a large vocabulary are gigabytes
        for start in range(0, len(targets), LOSSES_TOGETHER):
            own = slice(start, start + LOSSES_TOGETHER)
            logits = self.logits(before[own])
            parts = logits.split(NORMALISED_TOGETHER if logits.is_cpu else len(logits))
            sums = torch.cat([part.float().logsumexp(dim=-1) for part in parts])
            losses[own] = sums - logits.gather(1, targets[own, None])[:, 0]
        return functional.pad(losses.view(len(input_ids), input_ids.shape[1] - 1), (1, 0), value=FIRST_LOSS)

    def next_soft_prompt(self, soft_prompt: Tensor, vectors: Tensor) -> Tensor:
        """What conditions the segment after one that had `soft_prompt` before it and made `vectors`."""
        return torch.cat([soft_prompt, vectors], dim=1) if self.accumulate_summary else vectors

    def embed(self, input_ids: Tensor) -> Tensor:
        """(B, L) token ids to (B, L, D) input embeddings."""
        embedded: Tensor = self.base.get_input_embeddings()(input_ids)
        return embedded

    def logits(self, hidden: Tensor) -> Tensor:
        """Last hidden states (..., D) to logits (..., V)."""
        logits: Tensor = output_layer(self.base)(hidden)
        return logits

    def empty_soft_prompt(self, batch: int = 1) -> Tensor:
        return torch.zeros(batch, 0, self.hidden_size, dtype=self.dtype, device=self.device)

    def checked_soft_prompt(self, soft_prompt: Tensor | None, input_ids: Tensor) -> Tensor:
        """A soft prompt for every row of `input_ids`, (B, P, D), empty for None; ValueError where it cannot be one."""
        batch = input_ids.shape[0]
        if soft_prompt is None:
            return self.empty_soft_prompt(batch)
        if soft_prompt.dim() != 3 or soft_prompt.shape[2] != self.hidden_size:
            raise ValueError(
                f"soft_prompt has the shape {tuple(soft_prompt.shape)}; expected (batch, vectors, {self.hidden_size})"
            )
        if soft_prompt.shape[0] not in (1, batch):
            raise ValueError(f"soft_prompt has a batch of {soft_prompt.shape[0]}; expected 1 or {batch}")
        return soft_prompt.to(self.device, self.dtype).expand(batch, -1, -1)
