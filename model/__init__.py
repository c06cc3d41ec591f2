"""AutoCompressors (arXiv 2305.14788) around any Hugging Face causal language model."""

from model.autocompressor import AutoCompressor
from model.config import SummaryConfig
from model.output import CompressorOutput

__all__ = ["AutoCompressor", "CompressorOutput", "SummaryConfig"]
