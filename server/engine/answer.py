"""A generated token as an event: the text that it completes, and the reason where it is the last one."""

from dataclasses import dataclass

from server.engine.detokenizer import Detokenizer
from server.engine.protocol import FinishReason, SamplingParams, TokenEvent


@dataclass
class Answer:
    """One answer as its tokens come; `end_of_text` are the tokens that end it unless its parameters ignore them."""

    params: SamplingParams
    detokenizer: Detokenizer
    end_of_text: frozenset[int]
    num_tokens: int = 0

    def add(self, token_id: int, logprob: float, top_logprobs: tuple[tuple[int, float], ...] = ()) -> TokenEvent:
        """Add a token."""
        self.num_tokens += 1
        reason: FinishReason | None = None
        is_end = token_id in self.end_of_text and not self.params.ignore_eos
        if is_end or token_id in self.params.stop_token_ids:
            reason = "stop"
        elif self.num_tokens >= self.params.max_tokens:
            reason = "length"
        text = "" if reason == "stop" else self.detokenizer.add(token_id)
        if self.detokenizer.is_stopped:
            reason = "stop"
        elif reason is not None:
            text += self.detokenizer.flush()
        return TokenEvent(token_id, text, logprob, reason, top_logprobs)
