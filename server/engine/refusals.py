"""What every engine refuses before it begins, in the same words."""

from collections.abc import Sequence

from server.engine.protocol import Prompt
from server.errors import InvalidRequest, TooLong


def require_tokens(pieces: Sequence[Sequence[int]], what: str) -> None:
    """Raise InvalidRequest unless there are some and each has a token; `what` one is called."""
    if not pieces or not all(pieces):
        raise InvalidRequest(f"every {what} needs at least 1 token")


def require_room(prompt: Prompt, num_new: int, limit: int) -> None:
    """Raise InvalidRequest for an empty prompt, TooLong where a row of so many positions has no room for it."""
    if not prompt.num_positions:
        raise InvalidRequest("the prompt is empty: it needs at least 1 token, or 1 vector")
    # the last new token is never read, so it needs no position
    if prompt.num_positions + num_new - 1 > limit:
        raise TooLong(f"{prompt.num_positions} prompt positions and {num_new} new tokens exceed a row's {limit}")
