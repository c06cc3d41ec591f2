"""Variables that vLLM reads when it is imported; whoever starts the server may have set them otherwise."""

import os

VARIABLES = {
    "VLLM_NO_USAGE_STATS": "1",  # nothing of a server is told to anyone
    "VLLM_CONFIGURE_LOGGING": "0",  # its lines go through this server's log
    "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",  # one more than there are positions: a last token is never read
}


def prepare() -> None:
    """Set those that are not set, for this process and the ones that vLLM starts."""
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
