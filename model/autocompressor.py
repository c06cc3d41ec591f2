"""The AutoCompressor (arXiv 2305.14788): a causal language model that turns segments into summary vectors."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint as checkpoint_activations
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from model import checkpoint, generation
from model.adapter import Adapter
from model.base import embedding_width, first_token_id, load_base, output_layer, require_supported, state_widths
from model.bases.known import find_base, resolve_base
from model.bases.reference import BaseReference
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
    default_layers,
)
from model.config import SummaryConfig
from model.fingerprint import fingerprint
from model.output import CompressorOutput, shifted_loss
from model.positions import Positions
from model.segments import checked_mask, split_lengths

SegmentLengths = int | Sequence[int] | None
OWN_WEIGHTS = {"embed_summary.weight": "summary embeddings"}
LOSSES_TOGETHER = 128  # tokens of a segment


class AutoCompressor(nn.Module):
    """Wraps a Hugging Face causal LM and adds what writes its summary vectors.

    With summary tokens, a segment runs as `[soft prompt | segment tokens | summary tokens]` under causal attention; the
    last hidden states at the summary tokens, after the final norm, are its summary vectors. Accumulating, they join the
    soft prompt of the next segment; otherwise (RMT) they replace it. Other writers are in `model.compressors`.

    Attributes:
        writer: what makes vectors of a segment that was read. Its weights are `embed_summary`, of summary tokens, or
            `bridge`, of anchored vectors.
        adapter: is on where a soft prompt is read, and off where a segment is read to be compressed and where there is
            no soft prompt: there the model is the untouched base. None for a model without.
        segment_gradient_checkpointing: recompute a segment's activations in the backward pass instead of keeping them,
            but for the last segment of a call, whose turn comes at once.
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
        self.segment_gradient_checkpointing = False
        self.writer = self._new_writer()

    def _new_writer(self) -> Writer:
        config, base = self.config, self.base
        if config.compressor == "summary_tokens":
            shape = (config.summary_length, self.hidden_size)
            self.embed_summary = nn.Embedding(*shape, dtype=base.dtype, device=base.device)
            self._start_from_end_of_text()
            return SummaryTokens(self.embed_summary)
        if config.compressor == "anchored":
            scale = (
                1.0 if base.device.type == "meta" else float(base.get_input_embeddings().weight.detach().float().std())
            )
            self.bridge = Bridge(state_widths(base, config.layers), self.hidden_size, scale).to(base.device)
            return Anchored(
                self.bridge,
                Vocabulary.of(self.tokenizer, base.config.vocab_size),
                config.layers,
                config.num_vectors,
            )
        raise ValueError(f"the compressor {config.compressor!r} is not known; there are {', '.join(WRITERS)}")

    @classmethod
    def from_base(
        cls,
        base: PreTrainedModel | str | Path,
        summary_length: int = 50,
        accumulate_summary: bool = True,
        *,
        segment_length: int | None = None,
        compressor: str = "summary_tokens",
        tokenizer: PreTrainedTokenizerBase | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> "AutoCompressor":
        """Wrap an untrained base: a causal LM, the path of one, or a hub id.

        Args:
            segment_length: tokens a segment when serving; None takes the architecture's default.
            compressor: the name of what writes vectors. Anchored ones are of use without training.
            tokenizer: belongs to a base given as a model; one given by path brings its own.
            dtype, device: for a base given by path or id; as stored, on the CPU, when None.
        """
        if not isinstance(base, (str, Path)):
            model = base
        else:
            model, found = load_base(str(resolve_base(base)), dtype=dtype, device=device)
            tokenizer = tokenizer or found
        require_supported(model)
        if segment_length is None:
            segment_length = Positions.of(model.config).default_segment_length()
        config = SummaryConfig(summary_length, accumulate_summary, segment_length)
        if compressor != config.compressor:
            layers = default_layers(model.config.num_hidden_layers)
            config = replace(config, compressor=compressor, reads_alone=True, layers=layers)
        return cls(model, config, tokenizer)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        data: Path | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> "AutoCompressor":
        """Load a directory that `save_pretrained` or `save_adapter` wrote or one of the authors'; a path or a hub id.

        Args:
            data: the directory of fetched bases, for a checkpoint without its own; None for this user's.

        Raises:
            ValueError: a plain language model, or a checkpoint with parts missing.
            OSError: nothing there.
        """
        directory = resolve_base(path, data)
        parts = checkpoint.read_parts(directory)
        where = directory if parts.base is None else find_base(parts.base, data)
        base, tokenizer = load_base(str(where), dtype=dtype, device=device)
        config = parts.config
        if not parts.has_segment_length:
            config = replace(config, segment_length=Positions.of(base.config).default_segment_length())
        adapter = None if parts.adapter is None else Adapter.load(parts.adapter, base)
        model = cls(base, config, tokenizer, adapter)
        model.take_weights(parts.weights, directory)
        return model.eval()

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

    def save_pretrained(self, directory: str | Path, *, max_shard_size: str | None = None) -> None:
        """Write a plain Hugging Face checkpoint of the base, its tokenizer, and our parts in `autocompressor/`.

        Args:
            max_shard_size: of a weights file, such as "2GB"; None for transformers' default.
        """
        checkpoint.write(Path(directory), self, max_shard_size=max_shard_size)

    def save_adapter(self, directory: str | Path, base: BaseReference) -> None:
        """Write what was trained alone, and which base it belongs to; `from_pretrained` finds that."""
        checkpoint.write_adapter(Path(directory), self, base)

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
    def is_trained(self) -> bool:
        """Whether anything was trained for the vectors; anchored ones are of some use before."""
        return self.config.compressor == "summary_tokens" or self.adapter is not None

    @property
    def max_positions(self) -> int:
        return self.positions.max_positions

    @property
    def fingerprint(self) -> str:
        """Names these weights and this configuration. Reads every weight: ask once."""
        return fingerprint(self, self.config, self.base.config)

    @property
    def device(self) -> torch.device:
        device: torch.device = self.base.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.base.dtype
        return dtype

    def compress(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        segment_lengths: SegmentLengths = None,
        soft_prompt: Tensor | None = None,
    ) -> Tensor:
        """Compress every segment, each given what conditions it.

        Args:
            input_ids: (B, L), L at least 1.
            attention_mask: (B, L), 0 for padding; None for none.
            segment_lengths: see `split_lengths`.
            soft_prompt: (B or 1, P, D), what stands before the first segment.

        Returns:
            (B, P', D), the vectors this call made, oldest first: of each segment as many as `config.num_vectors` says.
            In RMT mode only the last segment's condition what follows.
        """
        if self.summary_length == 0:
            raise ValueError("summary_length is 0: a plain language model makes no summary vectors")
        made = []
        segments = self._segments(input_ids, attention_mask, segment_lengths)
        soft_prompt = self.checked_soft_prompt(soft_prompt, input_ids)
        for ids, mask in segments:
            before = soft_prompt[:, :0] if self.config.reads_alone else soft_prompt
            _, vectors = self.run_segment(ids, mask, before, is_compressed=True)
            soft_prompt = self.next_soft_prompt(soft_prompt, vectors)
            made.append(vectors)
        return torch.cat(made, dim=1)  # (B, segments * S, D)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        segment_lengths: SegmentLengths = None,
        soft_prompt: Tensor | None = None,
        labels: Tensor | None = None,
        output_soft_prompt: bool = False,
    ) -> CompressorOutput:
        """Logits of every token, all segments but the last being compressed for the next.

        Args:
            labels: (B, L), -100 where ignored; shifted here, so a segment's first token is predicted from the last
                token of the one before it.
            output_soft_prompt: compress the last segment too.
        """
        hidden_states = []
        segments = list(self._segments(input_ids, attention_mask, segment_lengths))
        soft_prompt = self.checked_soft_prompt(soft_prompt, input_ids)
        for index, (ids, mask) in enumerate(segments):
            is_last = index + 1 == len(segments)
            is_compressed = output_soft_prompt or not is_last
            run = self.run_segment if is_last or not self.segment_gradient_checkpointing else self._checkpointed
            hidden, vectors = run(ids, mask, soft_prompt, is_compressed=is_compressed)
            if self.positions.counts_soft_prompt:
                # the published Llama code drops padding before the decoder, so that its hidden states read as zero and
                # the label after left padding is predicted from them; the OPT code keeps what it computed there
                hidden = hidden.masked_fill(mask[..., None] == 0, 0)
            hidden_states.append(hidden)
            if is_compressed:
                soft_prompt = self.next_soft_prompt(soft_prompt, vectors)
        logits = self.logits(torch.cat(hidden_states, dim=1))  # (B, L, V)
        return CompressorOutput(logits, None if labels is None else shifted_loss(logits, labels), soft_prompt)

    def generate(self, input_ids: Tensor, attention_mask: Tensor | None = None, **options: Any) -> Tensor:
        """The reference path, a token at a time over transformers' cache: see `generation.generate`."""
        return generation.generate(self, input_ids, attention_mask, **options)

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
        losses = torch.full(input_ids.shape, FIRST_LOSS, device=input_ids.device)
        # a part at a time: logits of whole segments over a large vocabulary are gigabytes
        for start in range(1, input_ids.shape[1], LOSSES_TOGETHER):
            own = slice(start, start + LOSSES_TOGETHER)
            targets = input_ids[:, own]
            before = last_hidden[:, start - 1 : start - 1 + targets.shape[1]]
            logits = self.logits(before).float()
            losses[:, own] = logits.logsumexp(dim=-1) - logits.gather(2, targets[..., None])[..., 0]
        return losses

    @torch.no_grad()
    def summarise(self, input_ids: Tensor, segment_length: int | None = None) -> list[SegmentSummary]:
        """The summaries of a document's segments, (L,) tokens, in order.

        Args:
            segment_length: tokens a segment, the last one shorter; None is the configuration's.
        """
        segments = input_ids.split(segment_length or self.segment_length)
        if not self.config.reads_alone:
            made = self.compress(input_ids[None], segment_lengths=[len(segment) for segment in segments])[0]
            return [SegmentSummary(vectors) for vectors in made.split(self.summary_length)]
        return [self.write(segment[None], self.plain_states(segment[None])[1])[0] for segment in segments]

    def _checkpointed(
        self, input_ids: Tensor, attention_mask: Tensor, soft_prompt: Tensor, *, is_compressed: bool
    ) -> tuple[Tensor, Tensor]:
        """`run_segment`, whose activations are computed again for the backward pass."""
        made: tuple[Tensor, Tensor] = checkpoint_activations(
            self.run_segment, input_ids, attention_mask, soft_prompt, is_compressed=is_compressed, use_reentrant=False
        )
        return made

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

    def _segments(
        self, input_ids: Tensor, attention_mask: Tensor | None, segment_lengths: SegmentLengths
    ) -> Iterator[tuple[Tensor, Tensor]]:
        mask = checked_mask(attention_mask, input_ids)
        lengths = split_lengths(input_ids.shape[1], segment_lengths)
        return zip(input_ids.split(lengths, dim=1), mask.split(lengths, dim=1), strict=True)

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

    @torch.no_grad()
    def _start_from_end_of_text(self) -> None:
        """Start every summary embedding as the end-of-text token's (arXiv 2305.14788, section 4.1), or as the mean."""
        if not self.summary_length or self.device.type == "meta":
            return
        token_id = first_token_id(self.base.config, "eos_token_id")
        embeddings = self.base.get_input_embeddings().weight  # (V, D)
        start = embeddings.mean(dim=0) if token_id is None else self.embed(torch.tensor([token_id], device=self.device))
        self.embed_summary.weight.copy_(start.expand(self.summary_length, -1))
