"""What the server asks of a tokenizer."""

from typing import Any


class Tokeniser:
    """A transformers tokenizer, safe across threads.

    `control_tokens`: by their texts, tokens that are no text and are not shown.
    """

    def __init__(self, tokenizer: Any) -> None:
        added = getattr(tokenizer, "added_tokens_decoder", {})
        self.control_tokens: dict[str, int] = {
            str(token): token_id for token_id, token in added.items() if token.special
        }
