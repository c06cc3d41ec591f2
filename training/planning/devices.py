"""The devices that a plan can be for: their memory and speed, as data sheets say."""

from dataclasses import dataclass

USABLE_SHARE = 0.90  # of memory: the rest goes to the driver, libraries, the allocator's gaps and what is not counted
GIB = 2**30


@dataclass(frozen=True)
class Device:
    """Where a recipe is to run; memory, and dense bfloat16 products with float32 sums, as NVIDIA's data sheets say.

    Sources: A100 and L40S data sheets (the columns without sparsity), H100 and H200 SXM data sheets (half of the figure
    with sparsity), "NVIDIA Ada GPU architecture" whitepaper (RTX 4090). The CPU's is measured on large products.
    """

    name: str
    memory_bytes: int
    matmul_flops_per_second: float


DEVICES: dict[str, Device] = {
    device.name: device
    for device in (
        Device("a100-40gb", 40 * GIB, 312e12),
        Device("a100-80gb", 80 * GIB, 312e12),
        Device("h100-80gb", 80 * GIB, 989.5e12),
        Device("h200-141gb", 141 * GIB, 989.5e12),
        Device("l40s-48gb", 48 * GIB, 362.05e12),
        Device("rtx-4090-24gb", 24 * GIB, 165.2e12),
        Device("cpu-2-cores", 24 * GIB, 370e9),
    )
}


def usable_bytes(device: Device) -> int:
    return int(USABLE_SHARE * device.memory_bytes)
