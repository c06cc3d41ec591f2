"""The only code that drives the device: a batch of pieces in, results out."""

import logging
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import AttentionInterface

from model import AutoCompressor
from model.compressors import SegmentSummary
from server.engine.protocol import TokenLogprobs
from server.engine.torch.attention import Kernels, PackedAttention, Span
from server.engine.torch.kv_cache import KvPool, KvStrip
from server.engine.torch.memory import let_go_of_checkpoint
from server.engine.torch.packed_linear import pack_linear_layers
from server.engine.torch.requests import Compression, Generation, Phase, Piece, Request, Scoring
from server.engine.torch.roles import Roles, give_roles
from server.engine.torch.sampler import Row, Sampled, most_likely, sample_rows
from server.errors import EngineFailed

logger = logging.getLogger(__name__)

CHECK_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.01}  # of the largest logit
CHECK_LENGTHS = (5, 8)  # tokens of the two sequences that are compared at the start
SCORED_TOGETHER = 512  # tokens of a continuation


class BatchRunner(Protocol):
    """The runner's part in the engine; tests have another."""

    def run(self, pieces: Sequence[Piece]) -> list[Any]: ...

    def move(self, source: int, target: int, length: int) -> None: ...

    def prepare(self, request: Request) -> None: ...

    def soft_prompt_strip(self, request: Request) -> Any: ...

    def embed(self, token_ids: Sequence[int]) -> Tensor: ...


class Runner:
    """Runs pieces packed: one row of all their positions, linear layers over all at once, attention by span."""

    def __init__(self, model: AutoCompressor, kernels: Kernels, *, num_rows: int, max_tokens: int) -> None:
        """Take over the model's attention, and see once that its results stay what they were.

        Raises:
            ValueError: an architecture whose attention the engine cannot take over.
        """
        self._model = model.eval()
        self._num_rows, self._max_tokens = num_rows, max_tokens
        self._pool = KvPool(num_rows=num_rows, max_tokens=max_tokens)
        self._attention = PackedAttention(self._pool, kernels)
        self._roles = Roles()
        self._take_over_attention()

    @torch.inference_mode()
    def move(self, source: int, target: int, length: int) -> None:
        """Give what the first positions of a row of the pool hold another row."""
        self._pool.move(source, target, length)

    @torch.inference_mode()
    def prepare(self, request: Request) -> None:
        """Make room for what a new request keeps, beginning with what it knows of its soft prompt."""
        known = request.num_known
        if isinstance(request, Generation):
            if known:
                assert request.row is not None
                self._pool.fill(request.row, request.prefix, known)
        elif isinstance(request, Compression):
            if self._model.accumulate_summary and not request.reads_alone:
                capacity = request.soft_prompt_length + self._model.summary_length * (len(request.segments) - 1)
                request.line = request.prefix.extended(known, capacity) if known else KvStrip(capacity)
        elif isinstance(request, Scoring):
            is_read_once = len(request.continuations) > 1
            if known < request.soft_prompt_length or is_read_once:
                capacity = request.num_shared_positions if is_read_once else request.soft_prompt_length
                request.line = request.prefix.extended(known, capacity) if known else KvStrip(capacity)
            else:
                request.line = request.prefix
        request.prefix = None

    @torch.inference_mode()
    def soft_prompt_strip(self, request: Request) -> KvStrip | None:
        """Keys and values of a request's soft prompt, to be kept when it is gone; None where it has none."""
        length = request.soft_prompt_length
        if isinstance(request, Generation):
            return None if request.row is None else self._pool.strip(request.row, length)
        strip: KvStrip | None = request.line
        return strip if strip is None or strip.capacity == length else strip.extended(length, length)

    @torch.inference_mode()
    def run(self, pieces: Sequence[Piece]) -> list[Any]:
        """Run a batch, decodes first.

        Returns:
            For each piece: `Sampled` for PREFILL and DECODE, its `SegmentSummary` on the CPU for SEGMENT, None for
            PROMPT, `TokenLogprobs` for SCORE; `EngineFailed` where the model's states are not finite.
        """
        inputs = [self._inputs(piece) for piece in pieces]
        lengths = [piece.num_positions for piece in pieces]
        hidden, states = self._forward(
            torch.cat([embeds for embeds, _ in inputs]),
            torch.cat([positions for _, positions in inputs]),
            [self._span(piece) for piece in pieces],
            is_reading=[piece.phase is not Phase.SEGMENT and piece.request.soft_prompt_length > 0 for piece in pieces],
            layers=self._model.writer.layers if any(piece.phase is Phase.SEGMENT for piece in pieces) else (),
        )
        by_piece = hidden.split(lengths)
        states_by_piece = list(zip(*(each.split(lengths) for each in states), strict=True)) or [()] * len(pieces)
        is_finite = torch.stack([states.isfinite().all() for states in by_piece]).tolist()
        results: dict[int, Any] = {
            index: EngineFailed("the model's states are not finite") for index, ok in enumerate(is_finite) if not ok
        }
        for index in results:
            request = pieces[index].request
            if isinstance(request, Generation) and request.row is not None:
                self._pool.clear(request.row)  # whoever takes the row next masks what it has not written
        drawing = [
            index
            for index, piece in enumerate(pieces)
            if is_finite[index] and piece.phase in (Phase.PREFILL, Phase.DECODE)
        ]
        if drawing:
            last = torch.stack([by_piece[index][-1] for index in drawing])  # (N, D)
            results.update(zip(drawing, self._sample([pieces[index] for index in drawing], last), strict=True))
        for index, (piece, last) in enumerate(zip(pieces, by_piece, strict=True)):
            if index in results:
                continue
            if piece.phase is Phase.PROMPT:
                results[index] = None
            elif piece.phase is Phase.SEGMENT:
                results[index] = self._written(piece, last, states_by_piece[index])
            else:
                results[index] = self._score(piece, last)
        return [results[index] for index in range(len(pieces))]

    def _written(self, piece: Piece, last: Tensor, states: tuple[Tensor, ...]) -> SegmentSummary:
        """The summary of a segment, whose last hidden states and those of the writer's layers are given, (T, D)."""
        model = self._model
        ids = torch.tensor(self._token_ids(piece), dtype=torch.long, device=model.device)[None]
        num_appended = model.writer.num_appended
        (summary,) = model.write(ids, tuple(each[None] for each in states), last[None, len(last) - num_appended :])
        return summary.on_cpu()

    @torch.inference_mode()
    def embed(self, token_ids: Sequence[int]) -> Tensor:
        """Input embeddings (n, D) of tokens, on the CPU; reads weights only, so any thread may ask."""
        ids = torch.tensor(token_ids, dtype=torch.long, device=self._model.device)
        return self._model.embed(ids[None])[0].cpu()

    def _inputs(self, piece: Piece) -> tuple[Tensor, Tensor]:
        """Embeddings (T, D) and position ids (T,) of a piece: of what is not known yet."""
        request, model = piece.request, self._model
        if piece.phase is Phase.DECODE:
            assert isinstance(request, Generation)
            token = torch.tensor(request.generated[-1:], device=model.device)
            place = model.positions.of_token(request.num_known - request.soft_prompt_length, request.soft_prompt_length)
            return model.embed(token[None])[0], torch.tensor([place], device=model.device)
        token_ids = self._token_ids(piece)
        num_appended = model.writer.num_appended if piece.phase is Phase.SEGMENT else 0
        mask = torch.ones(1, len(token_ids), dtype=torch.long, device=model.device)
        positions = model.positions.ids(mask, request.soft_prompt_length, num_appended)[0]
        num_vectors = max(0, request.soft_prompt_length - request.num_known)  # of the soft prompt, still to be read
        num_read = max(0, request.num_known - request.soft_prompt_length)  # of the tokens, known
        parts = []
        if num_vectors:
            parts.append(request.soft_prompt[-num_vectors:].to(model.device, model.dtype))
        ids = torch.tensor(token_ids[num_read:], dtype=torch.long, device=model.device)
        parts.append(model.embed(ids[None])[0])
        if num_appended:
            parts.append(model.writer.appended())
        return torch.cat(parts), positions[request.num_known :]

    def _token_ids(self, piece: Piece) -> Sequence[int]:
        """The tokens of a piece and of what it shares with others, after the soft prompt."""
        request = piece.request
        if isinstance(request, Compression):
            return request.segments[piece.index]
        if isinstance(request, Scoring):
            if piece.phase is Phase.PROMPT:
                return request.prompt_ids[:-1]
            return (*request.prompt_ids, *request.continuations[piece.index][:-1])
        assert isinstance(request, Generation)
        return request.prompt_ids

    def _span(self, piece: Piece) -> Span:
        request, length = piece.request, piece.num_positions
        if isinstance(request, Generation):
            assert request.row is not None
            row = request.row if piece.phase is Phase.DECODE else None
            return Span(length, self._pool.row(request.row), request.num_known, num_kept=length, row=row)
        if request.line is None:
            return Span(length)
        kept = length if piece.phase is Phase.PROMPT else max(0, request.soft_prompt_length - request.num_known)
        return Span(length, request.line, request.num_known, num_kept=kept)

    def _forward(
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
        self._attention.begin(spans, embeds.device)
        self._roles.begin([span.length for span in spans], is_reading=is_reading, device=embeds.device)
        output = self._model.base.base_model(
            inputs_embeds=embeds[None], position_ids=positions[None], output_hidden_states=bool(layers), use_cache=False
        )
        hidden: Tensor = output.last_hidden_state[0]
        return hidden, [output.hidden_states[layer][0] for layer in layers]

    def _sample(self, pieces: Sequence[Piece], hidden: Tensor) -> list[Sampled]:
        sequences = [piece.request for piece in pieces]
        generations = [sequence for sequence in sequences if isinstance(sequence, Generation)]
        rows = [
            Row(generation.params, generation.generator, generation.prompt_ids, generation.generated)
            for generation in generations
        ]
        return sample_rows(self._model.logits(hidden), rows)

    def _score(self, piece: Piece, states: Tensor) -> TokenLogprobs:
        request = piece.request
        assert isinstance(request, Scoring)
        continuation = request.continuations[piece.index]
        targets = torch.tensor(continuation, device=states.device)
        chosen: list[float] = []
        top: list[tuple[tuple[int, float], ...]] = []
        # a part at a time: logits of a whole window over a large vocabulary are gigabytes
        for part, own in zip(
            states[-len(continuation) :].split(SCORED_TOGETHER), targets.split(SCORED_TOGETHER), strict=True
        ):
            logprobs = self._model.logits(part).float().log_softmax(dim=-1)  # (L, V)
            chosen += logprobs.gather(1, own[:, None])[:, 0].tolist()
            top += most_likely(logprobs, [request.num_logprobs] * len(own))
        return TokenLogprobs(continuation, tuple(chosen), tuple(top) if request.num_logprobs else ())

    @torch.inference_mode()
    def _take_over_attention(self) -> None:
        """Put ours in the place of the model's attention, and compare: two sequences packed, then a decode of both."""
        model, name = self._model, type(self._model.base).__name__
        if self._max_tokens < max(CHECK_LENGTHS):
            raise ValueError(f"max_sequence_tokens is {self._max_tokens}; at least {max(CHECK_LENGTHS)} are needed")
        vocabulary = model.base.config.vocab_size
        # from the middle: on control tokens, which stand first, logits are large and move with every rounding
        ids = (torch.arange(sum(CHECK_LENGTHS), device=model.device) + vocabulary // 3) % vocabulary
        sequences = ids.split(CHECK_LENGTHS)
        # of a model with an adapter, the second is read with it
        reads = [False, model.adapter is not None]
        if model.adapter is not None:  # before the comparison, which is not about weights that are merged in bfloat16
            give_roles(model.base, model.adapter, self._roles)
        expected = torch.stack(
            [self._reference_logits(ids, is_reading=reading) for ids, reading in zip(sequences, reads, strict=True)]
        )  # (2, V)
        key = f"autocompressor-{id(self)}"
        AttentionInterface.register(key, self._attention)
        try:
            model.base.set_attn_implementation(key)
            pack_linear_layers(model.base)
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
        model, ids = self._model, sequence[None]
        positions = model.positions.ids(torch.ones_like(ids), 0, 0)
        self._roles.begin([len(sequence)], is_reading=[is_reading], device=model.device)
        output = model.base.base_model(inputs_embeds=model.embed(ids), position_ids=positions, use_cache=False)
        return model.logits(output.last_hidden_state[0, -1])

    def _packed_logits(self, sequences: Sequence[Tensor], reads: list[bool]) -> Tensor:
        """Logits after the last token of each that has a row, (N, V): the others prefilled together, it decoded."""
        model = self._model
        heads = [sequence[:-1] for sequence in sequences]
        places = torch.cat([model.positions.ids(torch.ones_like(head)[None], 0, 0)[0] for head in heads])
        rows = [self._pool.row(index) for index in range(self._num_rows)]
        prefills = [
            Span(len(head), rows[index], num_kept=len(head)) if index < len(rows) else Span(len(head))
            for index, head in enumerate(heads)
        ]
        self._forward(model.embed(torch.cat(heads)[None])[0], places, prefills, is_reading=reads)
        kept = sequences[: self._num_rows]
        last = torch.stack([sequence[-1] for sequence in kept])
        places = torch.tensor([model.positions.of_token(len(sequence) - 1, 0) for sequence in kept])
        decodes = [Span(1, rows[index], len(sequence) - 1, 1, row=index) for index, sequence in enumerate(kept)]
        hidden, _ = self._forward(
            model.embed(last[None])[0], places.to(model.device), decodes, is_reading=reads[: len(kept)]
        )
        return model.logits(hidden)
