"""Generation as the paper defines it, a token at a time: slow, plain, and what the engine is tested against."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from model.base import first_token_id
from model.segment_model import SegmentModel
from model.segments import SegmentLengths, checked_mask, cut


@torch.inference_mode()
def generate(
    model: SegmentModel,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    segment_lengths: SegmentLengths = None,
    soft_prompt: Tensor | None = None,
    max_new_tokens: int = 16,
    do_sample: bool = False,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    eos_token_id: int | None = None,
    pad_token_id: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Continue each row of a batch.

    Args:
        input_ids: (B, L); shorter rows are padded on the left. L may be 0 where there is a soft prompt to go on from.
        segment_lengths: a list compresses all segments of the prompt but the last, which is read as it is. An int n
            does the same in segments of n and goes on so: whenever n tokens stand since the last compression, they
            are replaced by their summary vectors once the next token is drawn.
        soft_prompt: (B or 1, P, D).
        eos_token_id: ends a row; the base's own when None. pad_token_id: fills ended rows; the former when None.

    Returns:
        (B, L + up to max_new_tokens), prompt included.

    Raises:
        ValueError: sampling at temperature 0, padding on the right, or more tokens than the model has positions for.
    """
    if do_sample and temperature <= 0:
        raise ValueError(f"temperature is {temperature}; sampling needs one above 0, and do_sample=False is greedy")
    mask = checked_mask(attention_mask, input_ids)
    soft_prompt = model.checked_soft_prompt(soft_prompt, input_ids)
    is_bare = input_ids.shape[1] == 0 and soft_prompt.shape[1] > 0
    segments = [(input_ids, mask)] if is_bare else cut(input_ids, mask, segment_lengths)
    if not bool(mask[:, -1:].all()):
        raise ValueError("generation needs prompts padded on the left: a row ends in padding")
    eos_token_id = first_token_id(model.base.config, "eos_token_id") if eos_token_id is None else eos_token_id
    pad_token_id = eos_token_id if pad_token_id is None else pad_token_id
    renewal = segment_lengths if isinstance(segment_lengths, int) else None
    context = _Context(model, segments, soft_prompt)
    if renewal is None:
        context.require_room(max_new_tokens)

    tokens = input_ids
    is_done = torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)
    for _ in range(max_new_tokens):
        logits = context.next_logits()
        if renewal is not None and context.ids.shape[1] >= renewal:
            context.replace_by_summary()
        chosen = (
            sample(logits, temperature=temperature, top_k=top_k, top_p=top_p, generator=generator)
            if do_sample
            else logits.argmax(dim=-1)
        )
        if pad_token_id is not None:
            chosen = chosen.masked_fill(is_done, pad_token_id)
        tokens = torch.cat([tokens, chosen[:, None]], dim=1)
        context.append(chosen)
        if eos_token_id is not None:
            is_done |= chosen == eos_token_id
            if bool(is_done.all()):
                break
    return tokens


class _Context:
    """What the next token is predicted from: a soft prompt and the tokens since the last compression."""

    def __init__(self, model: SegmentModel, segments: list[tuple[Tensor, Tensor]], soft_prompt: Tensor) -> None:
        """All segments but the last are compressed behind the soft prompt, (B, P, D)."""
        self.model = model
        *before, (self.ids, self.mask) = segments
        for ids, mask in before:
            soft_prompt = model.next_soft_prompt(soft_prompt, model.compress_segment(ids, mask, soft_prompt))
        self.soft_prompt = soft_prompt
        self.cache: Any = None

    def require_room(self, max_new_tokens: int) -> None:
        prompt_length, num_tokens = self.soft_prompt.shape[1], self.ids.shape[1]
        capacity = self.model.positions.capacity(prompt_length, 0)
        if num_tokens + max_new_tokens > capacity:
            raise ValueError(
                f"a prompt of {num_tokens} tokens and {max_new_tokens} new ones do not fit the {capacity} positions "
                f"that {prompt_length} soft prompt vectors leave of {self.model.max_positions}"
            )

    def next_logits(self) -> Tensor:
        """Logits of the token after the last, (B, V); reads only what the cache has not seen."""
        model, prompt_length = self.model, self.soft_prompt.shape[1]
        self.require_room(0)
        positions = model.positions.ids(self.mask, prompt_length, 0)  # (B, P + L)
        if self.cache is None:
            embeds = torch.cat([self.soft_prompt, model.embed(self.ids)], dim=1)
        else:
            embeds, positions = model.embed(self.ids[:, -1:]), positions[:, -1:]
        with model.reads_vectors(prompt_length > 0):
            output = model.base.base_model(
                inputs_embeds=embeds,
                attention_mask=functional.pad(self.mask, (prompt_length, 0), value=1),
                position_ids=positions,
                past_key_values=self.cache,
                use_cache=True,
            )
        self.cache = output.past_key_values
        return model.logits(output.last_hidden_state[:, -1])

    def replace_by_summary(self) -> None:
        _, vectors = self.model.run_segment(self.ids, self.mask, self.soft_prompt, is_compressed=True)
        self.soft_prompt = self.model.next_soft_prompt(self.soft_prompt, vectors)
        self.ids, self.mask, self.cache = self.ids[:, :0], self.mask[:, :0], None

    def append(self, token_ids: Tensor) -> None:
        self.ids = torch.cat([self.ids, token_ids[:, None]], dim=1)
        self.mask = functional.pad(self.mask, (0, 1), value=1)


def sample(
    logits: Tensor,
    *,
    temperature: float,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw a token id from each row of (B, V) logits; (B,).

    Temperature first, then the top_k most likely, then the smallest set whose probability reaches top_p (nucleus
    sampling, arXiv 1904.09751): the order of transformers and vLLM.
    """
    scaled = logits.float() / temperature
    if top_k is not None and top_k < scaled.shape[-1]:
        least = scaled.topk(top_k, dim=-1).values[:, -1:]
        scaled = scaled.masked_fill(scaled < least, float("-inf"))
    if top_p is not None and top_p < 1.0:
        ordered, order = scaled.sort(dim=-1, descending=True)
        probability = ordered.softmax(dim=-1)
        is_outside = probability.cumsum(dim=-1) - probability >= top_p  # the token that crosses top_p stays
        is_outside[:, 0] = False  # a top_p that float32 rounds to 0 leaves the most likely token
        scaled = scaled.masked_fill(torch.zeros_like(is_outside).scatter(-1, order, is_outside), float("-inf"))
    return torch.multinomial(scaled.softmax(dim=-1), 1, generator=generator).squeeze(-1)
