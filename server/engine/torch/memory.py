"""What stays in memory of a model once the engine has its weights in its own order."""

import ctypes
import gc

import torch

from model import AutoCompressor


@torch.no_grad()
def let_go_of_checkpoint(model: AutoCompressor) -> None:
    """Free what nothing computes with any more, of a model on a CPU.

    Weights lie in the checkpoint's file, mapped as a whole, until the last of them is gone: those that stay, such as
    embeddings, are copied. And what was freed goes back to the system, which glibc would keep.
    """
    if model.device.type != "cpu":
        return
    if model.adapter is not None:
        model.adapter.let_go()
    for parameter in model.base.parameters():
        parameter.data = parameter.data.clone()
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc alone
    if trim is not None:
        trim(0)
