"""Logging, set once at the start."""

import logging

from transformers.utils import logging as transformers_logging


def configure(level: str) -> None:
    """One line an event on standard error; libraries speak from warnings up."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", datefmt="%Y-%m-%d %H:%M:%S")
    logging.getLogger("server").setLevel(level.upper())
    logging.getLogger("server.audit").setLevel(logging.INFO)  # whatever else is wanted: it is kept for others to read
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it tells of every index that it builds
    transformers_logging.disable_progress_bar()
