"""Which devices multiply in bfloat16."""

import torch

CPU_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16")  # on x86 and on Arm, as torch names them


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for it; on a CPU without, products take some three hundred times as long."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    # absent from the oldest torch that is supported
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name) for name in CPU_INSTRUCTIONS)
