"""AutoCompressors (arXiv 2305.14788) around any Hugging Face causal language model."""

from model.autocompressor import AutoCompressor, CompressorOutput
from model.config import SummaryConfig

__all__ = ["AutoCompressor", "CompressorOutput", "SummaryConfig"]
