"""The tokenizer that a GGUF file holds, with SmolLM's way of cutting text before its merges."""

from collections.abc import Mapping
from typing import Any

from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

KIND = "tokenizer.ggml.model", "tokenizer.ggml.pre"
SUPPORTED = "gpt2", "smollm"
CONTROL = 3  # gguf.TokenType.CONTROL: special tokens, which no text is cut into
ROLES = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}


def tokenizer_of(metadata: Mapping[str, Any], *, max_positions: int) -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer that adds no special tokens, with its chat template where the file has one.

    transformers' own reading of the file leaves out that SmolLM cuts digits one by one before all else
    (LLAMA_VOCAB_PRE_TYPE_SMOLLM in llama.cpp's src/llama-vocab.cpp), so white space before a number would be cut as
    the base never saw it.

    Raises:
        ValueError: a tokenizer of another kind.
    """
    kind = tuple(metadata.get(field) for field in KIND)
    if kind != SUPPORTED:
        raise ValueError(f"the file's tokenizer is of the kind {kind}; supported is {SUPPORTED}")
    tokens = metadata["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(BPE({token: index for index, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = ByteLevelDecoder()
    types = zip(tokens, metadata["tokenizer.ggml.token_type"], strict=True)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token, kind in types if kind == CONTROL])
    roles = {ours: metadata.get(f"tokenizer.ggml.{theirs}_token_id") for theirs, ours in ROLES.items()}
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_positions,
        clean_up_tokenization_spaces=False,
        **{f"{role}_token": tokens[index] for role, index in roles.items() if index is not None},
    )
    made.chat_template = metadata.get("tokenizer.chat_template")
    return made
