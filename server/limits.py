"""What a request may hold at most; errors name the limit, and `GET /info` tells those that clients plan with."""

MAX_TTL_SECONDS = 10 * 365 * 86400  # ten years
MAX_BODIES = 8  # of the largest, that all requests of a server hold together; and all unfinished jobs of a store
MAX_CONTAINERS = 200_000  # lists and objects of a large body
MAX_ITEMS = 500_000  # of one of its lists, other than whole numbers
MAX_NAMES = 10_000  # of one of its objects
MAX_FREE_VALUES = 10_000  # of a JSON object whose fields are the client's own, as a tool's parameters
MAX_FREE_DEPTH = 64  # of it

# documents
MAX_DOCUMENTS = 1000  # of one request
MAX_DOCUMENT_TOKENS = 4_000_000  # of models whose positions set no limit
MAX_METADATA = 16  # entries
MAX_METADATA_NAME = 64  # characters
MAX_METADATA_VALUE = 512
MAX_LISTED = 1000  # summaries of a page
MAX_SEGMENTS = 100  # of a page
MAX_ID = 64  # characters of a summary's
MAX_IDEMPOTENCY_KEY = 255  # characters

# jobs
MAX_RUNNING_JOBS = 4  # of one server
MAX_UNFINISHED_JOBS = 64  # in a store, which holds their requests
MAX_OWN_UNFINISHED_JOBS = 48  # of one caller: others find room
MAX_JOB_ATTEMPTS = 5  # by servers that ended or lost the store meanwhile

# prompts
MAX_PARTS = 64  # summaries and texts before a prompt
MAX_EXPANDED = 64  # segments that are read as text
MAX_MESSAGES = 10_000
MAX_PROMPTS = 128  # of one request, times its choices

MAX_TOKENIZED = 1_000_000  # characters of a text whose tokens are told

# answers
MAX_NEW_TOKENS = 1_000_000
MAX_CHOICES = 16
MAX_STOPS = 16
MAX_STOP_TOKENS = 128
MAX_LOGPROBS = 20
MAX_BIASES = 1024
MAX_CONTINUATIONS = 128
MAX_PASSAGES = 1000
MAX_TEMPERATURE = 10
MAX_REPETITION_PENALTY = 10
MAX_PENALTY = 2  # of frequency and presence; as much below 0
MAX_BIAS = 100  # of a logit; as much below 0
MAX_SEED = 2**63 - 1

# responses
MAX_SEALED = 10_485_760  # characters of a compaction's encrypted_content, as Open Responses has it
MAX_CONVERSATION_ITEMS = 10_000  # of one request
MAX_ITEM_ID = 512  # characters; of a response's, too
MAX_TOOLS = 128
MAX_TOOL_NAME = 64  # characters
MAX_LISTED_ITEMS = 100  # of a page
MIN_OUTPUT_TOKENS = 16  # as OpenAI has it
MAX_CHAIN = 1000  # responses that go on from one another, between two compactions; each names all before it
