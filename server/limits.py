"""What a request may hold at most; `GET /info` tells them, and errors name them."""

MAX_TTL_SECONDS = 10 * 365 * 86400  # ten years

# documents
MAX_DOCUMENTS = 1000  # of one request
MAX_DOCUMENT_TOKENS = 4_000_000  # of models whose positions set no limit
MAX_METADATA = 16  # entries
MAX_METADATA_NAME = 64  # characters
MAX_METADATA_VALUE = 512
MAX_LISTED = 1000  # summaries of a page
MAX_SEGMENTS = 100  # of a page
MAX_IDEMPOTENCY_KEY = 255  # characters

# prompts
MAX_PARTS = 64  # summaries and texts before a prompt
MAX_EXPANDED = 64  # segments that are read as text
MAX_MESSAGES = 10_000
MAX_PROMPTS = 128  # of one request, times its choices

# answers
MAX_NEW_TOKENS = 1_000_000
MAX_CHOICES = 16
MAX_STOPS = 16
MAX_LOGPROBS = 20
MAX_BIASES = 1024
MAX_CONTINUATIONS = 128
MAX_PASSAGES = 1000
MAX_TEMPERATURE = 10
MAX_SEED = 2**63 - 1


def encodable(text: str) -> str:
    """The text; ValueError for half of a surrogate pair, which is no character and which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the text has an unpaired surrogate at character {error.start}") from None
    return text
