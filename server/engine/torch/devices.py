"""Which device, number format and attention a server runs on."""

import torch

from model.precision import computes_in_bfloat16
from server.engine.torch import flash
from server.engine.torch.attention import Kernels, SdpaKernels

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(wanted: str) -> torch.device:
    """The device named, or for 'auto' CUDA where there is one; ValueError for one that is not here."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device: torch.device | None = torch.device(wanted)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ValueError(f"device {wanted!r} is not one that is served on: auto, cpu, cuda, cuda:1, …")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {wanted!r} was asked for, and torch finds no CUDA device")
    return device


def choose_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """The format named, or for 'auto' bfloat16 where the device computes in it and float32 elsewhere."""
    if wanted != "auto":
        return DTYPES[wanted]
    return torch.bfloat16 if computes_in_bfloat16(device) else torch.float32


def choose_kernels(wanted: str, device: torch.device, dtype: torch.dtype) -> Kernels:
    """flash-attn where it is asked for, or for 'auto' where it can run; ValueError where it is asked for and cannot."""
    can_flash = device.type == "cuda" and dtype is not torch.float32 and flash.is_available()
    if wanted == "flash" and not can_flash:
        raise ValueError("attention 'flash' needs CUDA, a 16-bit dtype and flash-attn (the extra `gpu`)")
    return flash.FlashKernels() if can_flash and wanted != "sdpa" else SdpaKernels()
