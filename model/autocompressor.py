"""The AutoCompressor (arXiv 2305.14788): a causal language model that turns segments into summary vectors."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as checkpoint_activations
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from model import checkpoint, generation
from model.adapter import Adapter
from model.base import load_base, require_supported
from model.bases.known import find_base, resolve_base
from model.bases.reference import BaseReference
from model.compressors import SegmentSummary, default_layers
from model.config import SummaryConfig
from model.fingerprint import fingerprint
from model.output import CompressorOutput, shifted_loss
from model.positions import Positions
from model.segment_model import SegmentModel
from model.segments import SegmentLengths, cut
from model.shared_bases import SharedBases


class AutoCompressor(SegmentModel):
    """Wraps a Hugging Face causal LM and adds what writes its summary vectors.

    A sequence is read segment by segment, each as `SegmentModel` says. Accumulating, a segment's vectors join the soft
    prompt of the next segment; otherwise (RMT) they replace it.

    Attributes:
        segment_gradient_checkpointing: recompute a segment's activations in the backward pass instead of keeping them,
            but for the last segment of a call, whose turn comes at once.
    """

    segment_gradient_checkpointing: bool = False

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
        bases: SharedBases | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> "AutoCompressor":
        """Load a directory that `save_pretrained` or `save_adapter` wrote or one of the authors'; a path or a hub id.

        Args:
            data: the directory of fetched bases, for a checkpoint without its own; None for this user's.
            bases: of other models, which have the weights of a base with this one; None for weights of its own.

        Raises:
            ValueError: a plain language model, or a checkpoint with parts missing.
            OSError: nothing there.
        """
        directory = resolve_base(path, data)
        parts = checkpoint.read_parts(directory)
        where = directory if parts.base is None else find_base(parts.base, data)
        load = load_base if bases is None else bases.load
        base, tokenizer = load(str(where), dtype=dtype, device=device)
        base.generation_config.update(**parts.generation)
        config = parts.config
        if not parts.has_segment_length:
            config = replace(config, segment_length=Positions.of(base.config).default_segment_length())
        adapter = None if parts.adapter is None else Adapter.load(parts.adapter, base)
        model = cls(base, config, tokenizer, adapter)
        model.take_weights(parts.weights, directory)
        return model.eval()

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
    def is_trained(self) -> bool:
        """Whether anything was trained for the vectors; anchored ones are of some use before."""
        return self.config.compressor == "summary_tokens" or self.adapter is not None

    @property
    def fingerprint(self) -> str:
        """Names these weights and this configuration. Reads every weight: ask once."""
        return fingerprint(self, self.config, self.base.config)

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
        made = []
        segments = cut(input_ids, attention_mask, segment_lengths)
        soft_prompt = self.checked_soft_prompt(soft_prompt, input_ids)
        for ids, mask in segments:
            vectors = self.compress_segment(ids, mask, soft_prompt)
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
        segments = cut(input_ids, attention_mask, segment_lengths)
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
