"""A tiny model whose turns end: random words, then its end token, after ten tokens on average and never at once.

What judges tell is a matter of form; a small model that was trained goes on, once in a while, for as long as it may.
"""

import copy
import math
from pathlib import Path

import torch

from tests.tiny import END_OF_TEXT_ID, HIDDEN_SIZE, tiny_anchored, tiny_tokenizer

POSITIONS = 2048
MEAN_TOKENS = 10  # of an answer
ASIDE = 0  # the feature that says whether a turn may end: no layer writes to it
STRENGTH = 30.0  # of it in the embeddings: what else there is hardly counts beside it
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '<|endoftext|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)


@torch.no_grad()
def save(directory: Path) -> Path:
    """Write it as a checkpoint; the directory."""
    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.chat_template = TEMPLATE
    model = tiny_anchored(max_positions=POSITIONS)
    model.tokenizer = tokenizer
    base = model.base
    embeddings = base.get_input_embeddings().weight
    embeddings[:, ASIDE] = STRENGTH
    (*_, last) = tokenizer.encode("assistant:", add_special_tokens=False)
    embeddings[last, ASIDE] = -STRENGTH
    for layer in base.model.layers:
        layer.self_attn.o_proj.weight[ASIDE] = 0
        layer.mlp.down_proj.weight[ASIDE] = 0
    base.model.norm.weight[ASIDE] = 1
    output = base.get_output_embeddings().weight
    output[:, ASIDE] = 0
    output[END_OF_TEXT_ID] = 0
    # the norm makes it the square root of the width; the others' logits are about nought
    odds = (len(output) - 1) / (MEAN_TOKENS - 1)
    output[END_OF_TEXT_ID, ASIDE] = math.log(odds) / math.sqrt(HIDDEN_SIZE)
    model.save_pretrained(directory)
    return directory
