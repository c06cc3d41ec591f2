"""The only code that drives the device: a batch of pieces in, results out."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from model.compressors import SegmentSummary
from model.int8 import as_rounded
from server.engine.protocol import TokenLogprobs
from server.engine.torch.attention import Span
from server.engine.torch.kv_cache import KvStrip
from server.engine.torch.memory import give_back_freed
from server.engine.torch.packed import PackedModel
from server.engine.torch.requests import Compression, Generation, Phase, Piece, Request, Scoring
from server.engine.torch.sampler import Row, Sampled, most_likely, sample_rows
from server.errors import EngineFailed

SCORED_TOGETHER = 512  # tokens of a continuation


class BatchRunner(Protocol):
    """The runner's part in the engine; tests have another."""

    def run(self, pieces: Sequence[Piece]) -> list[Any]: ...

    def move(self, source: int, target: int, length: int) -> None: ...

    def prepare(self, request: Request) -> None: ...

    def strip_to_keep(self, request: Request) -> Any: ...

    def rest(self) -> None: ...

    def embed(self, token_ids: Sequence[int]) -> Tensor: ...


class Runner:
    """Runs pieces over a packed model: what each reads, and what comes of its states."""

    def __init__(self, packed: PackedModel, *, rounds_vectors: bool = False) -> None:
        """`rounds_vectors`: what a segment's vectors are is what int8 holds of them, before anything reads them."""
        self._packed, self._model, self._pool = packed, packed.model, packed.pool
        self._rounds_vectors = rounds_vectors

    @torch.inference_mode()
    def move(self, source: int, target: int, length: int) -> None:
        """Give what the first positions of a row of the pool hold another row."""
        self._pool.move(source, target, length)

    @torch.inference_mode()
    def prepare(self, request: Request) -> None:
        """Make room for what a new request keeps, beginning with what it knows of its soft prompt."""
        known, capacity = request.num_known, request.strip_length
        if capacity <= known:
            request.line = request.prefix
        elif known:
            request.line = request.prefix.extended(known, capacity)
        else:
            request.line = KvStrip(capacity, self._pool.num_layers)
        request.prefix = None

    def rest(self) -> None:
        """Give back what steps have freed; called now and then."""
        if self._model.device.type == "cpu":
            give_back_freed()

    @torch.inference_mode()
    def strip_to_keep(self, request: Request) -> KvStrip | None:
        """Keys and values of what a request begins with, to be kept when it is gone; None where there are none.

        A generation's strip has nothing else in it, though it may have room for blocks that are read later.
        """
        length = request.strip_length if isinstance(request, Generation) else request.soft_prompt_length
        strip: KvStrip | None = request.line
        return strip if strip is None or strip.capacity == length else strip.extended(length, length)

    @torch.inference_mode()
    def run(self, pieces: Sequence[Piece]) -> list[Any]:
        """Run a batch, decodes first.

        Returns:
            For each piece: `Sampled` for PREFILL and DECODE, its `SegmentSummary` on the CPU for SEGMENT, None for
            VECTORS, BLOCK and PROMPT, `TokenLogprobs` for SCORE; `EngineFailed` where the model's states are not
            finite.
        """
        for piece in pieces:
            if piece.phase is Phase.PREFILL:
                self._move_in(piece.request)
        decodes = [piece.request for piece in pieces if piece.phase is Phase.DECODE]
        inputs = [self._decode_inputs(decodes)] if decodes else []
        inputs += [self._inputs(piece) for piece in pieces[len(decodes) :]]
        lengths = [piece.num_positions for piece in pieces]
        hidden, states = self._packed.forward(
            torch.cat([embeds for embeds, _ in inputs]),
            torch.cat([positions for _, positions in inputs]),
            [self._span(piece) for piece in pieces],
            is_reading=[piece.phase is not Phase.SEGMENT and piece.request.soft_prompt_length > 0 for piece in pieces],
            layers=self._model.writer.layers if any(piece.phase is Phase.SEGMENT for piece in pieces) else (),
        )
        by_piece = hidden.split(lengths)
        states_by_piece = list(zip(*(each.split(lengths) for each in states), strict=True)) or [()] * len(pieces)
        is_finite = [True] * len(pieces)
        if not hidden.isfinite().all():
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
        segments: dict[int, list[int]] = {}  # by their number of tokens
        for index, (piece, last) in enumerate(zip(pieces, by_piece, strict=True)):
            if index in results:
                continue
            if piece.phase in (Phase.VECTORS, Phase.BLOCK, Phase.PROMPT):
                results[index] = None
            elif piece.phase is Phase.SEGMENT:
                segments.setdefault(len(self._token_ids(piece)), []).append(index)
            else:
                results[index] = self._score(piece, last)
        for alike in segments.values():
            own = [pieces[index] for index in alike], [by_piece[index] for index in alike]
            states_of_layers = zip(*(states_by_piece[index] for index in alike), strict=True)
            results.update(zip(alike, self._written(*own, list(states_of_layers)), strict=True))
        return [results[index] for index in range(len(pieces))]

    def _move_in(self, request: Request) -> None:
        """Give a generation's row of the pool what is known of its soft prompt."""
        assert isinstance(request, Generation)
        assert request.row is not None
        if request.line is not None:
            self._pool.fill(request.row, request.line, request.num_known)
            request.line = None

    def _written(
        self, pieces: Sequence[Piece], last: Sequence[Tensor], states: Sequence[Sequence[Tensor]]
    ) -> list[SegmentSummary]:
        """The summaries of segments of one length, given of each its last hidden states, (P, D), and of each of the
        writer's layers those of every segment, (L, D).
        """
        model = self._model
        ids = torch.tensor([self._token_ids(piece) for piece in pieces], dtype=torch.long, device=model.device)
        num_appended = model.writer.num_appended
        appended = torch.stack([each[len(each) - num_appended :] for each in last])
        summaries = model.write(ids, tuple(torch.stack(tuple(each)) for each in states), appended)
        on_cpu = [summary.on_cpu() for summary in summaries]  # where the store's are rounded and read
        return [as_rounded(each) for each in on_cpu] if self._rounds_vectors else on_cpu

    @torch.inference_mode()
    def embed(self, token_ids: Sequence[int]) -> Tensor:
        """Input embeddings (n, D) of tokens, on the CPU; reads weights only, so any thread may ask."""
        ids = torch.tensor(token_ids, dtype=torch.long, device=self._model.device)
        return self._model.embed(ids[None])[0].cpu()

    def _decode_inputs(self, requests: Sequence[Request]) -> tuple[Tensor, Tensor]:
        """Embeddings (N, D) and position ids (N,) of the last token of each."""
        model = self._model
        tokens = [request.generated[-1] for request in requests if isinstance(request, Generation)]
        places = [
            model.positions.of_token(request.num_known - request.soft_prompt_length, request.soft_prompt_length)
            for request in requests
        ]
        embeds = model.embed(torch.tensor(tokens, device=model.device)[None])[0]
        return embeds, torch.tensor(places, device=model.device)

    def _inputs(self, piece: Piece) -> tuple[Tensor, Tensor]:
        """Embeddings (T, D) and position ids (T,) of a piece: of what is not known yet."""
        request, model = piece.request, self._model
        if piece.phase is Phase.BLOCK:
            return self._block_inputs(piece)
        token_ids = self._token_ids(piece)
        num_appended = model.writer.num_appended if piece.phase is Phase.SEGMENT else 0
        mask = torch.ones(1, len(token_ids), dtype=torch.long, device=model.device)
        positions = model.positions.ids(mask, request.soft_prompt_length, num_appended)[0]
        num_vectors = max(0, request.soft_prompt_length - request.num_known)  # of the soft prompt, still to be read
        num_read = max(0, request.num_known - request.soft_prompt_length)  # of the tokens, known
        parts = []
        if num_vectors:
            parts.append(request.soft_prompt[-num_vectors:].to(model.device, model.dtype))
        if len(token_ids) > num_read:
            ids = torch.tensor(token_ids[num_read:], dtype=torch.long, device=model.device)
            parts.append(model.embed(ids[None])[0])
        if num_appended:
            parts.append(model.writer.appended())
        return torch.cat(parts), positions[request.num_known :]

    def _block_inputs(self, piece: Piece) -> tuple[Tensor, Tensor]:
        request, model = piece.request, self._model
        assert isinstance(request, Generation)
        end = (piece.index + 1) * request.block_tokens
        ids = torch.tensor(request.prompt_ids[end - request.block_tokens : end], device=model.device)
        mask = torch.ones(1, end, dtype=torch.long, device=model.device)
        positions = model.positions.ids(mask, request.soft_prompt_length, 0)[0]
        return model.embed(ids[None])[0], positions[-request.block_tokens :]

    def _token_ids(self, piece: Piece) -> Sequence[int]:
        """The tokens of a piece and of what it shares with others, after the soft prompt."""
        request = piece.request
        if piece.phase is Phase.VECTORS:
            return ()
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
        if isinstance(request, Generation) and piece.phase is Phase.BLOCK:
            return Span(length, request.line, request.block_start(piece.index), num_kept=length)
        if isinstance(request, Generation) and piece.phase is not Phase.VECTORS:
            assert request.row is not None
            row = request.row if piece.phase is Phase.DECODE else None
            return Span(length, self._pool.row(request.row), request.num_known, num_kept=length, row=row)
        if request.line is None:
            return Span(length)
        if piece.phase is Phase.SCORE:  # it may be another's strip, which is whole
            kept = 0
        elif piece.phase is Phase.SEGMENT:
            kept = request.soft_prompt_length - request.num_known
        else:
            kept = length
        return Span(length, request.line, request.num_known, num_kept=kept)

    def _sample(self, pieces: Sequence[Piece], hidden: Tensor) -> list[Sampled]:
        sequences = [piece.request for piece in pieces]
        generations = [sequence for sequence in sequences if isinstance(sequence, Generation)]
        rows = [
            Row(generation.params, generation.generator, generation.prompt_ids, generation.generated, generation.bias)
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
