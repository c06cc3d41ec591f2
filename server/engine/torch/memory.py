"""What stays in memory of a model once the engine has its weights in its own order, and what is free beside it."""

import ctypes
import gc
import os
from pathlib import Path

import torch

from model import AutoCompressor

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # glibc's numbers of these, mallopt(3)
KEPT_BYTES = 512 * 2**20


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
    give_back_freed()


def keep_freed() -> None:
    """Have glibc keep what a step has freed for the next one, until `give_back_freed`.

    Else it gives large tensors back to the system at once, and their pages have to be had and cleared again: a tenth of
    a step, and where the machine is itself a guest that gives its free pages back, many times as much.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # of glibc alone
    if mallopt is not None:
        mallopt(MMAP_THRESHOLD, KEPT_BYTES)
        mallopt(TRIM_THRESHOLD, KEPT_BYTES)


def give_back_freed() -> None:
    """Let the system have what this process has freed: glibc keeps it, and in holes of it the next step finds no room
    and takes more. A few hundredths of a second for gigabytes.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc alone
    if trim is not None:
        trim(0)


def free_bytes(device: torch.device) -> int:
    """Memory that could be taken now on a device; of a CPU that of the machine, or of the container it is less in."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free
    return min([_free_of_machine(), *_free_of_container()])


def device_bytes(device: torch.device) -> int:
    """Memory that a device has; of a CPU what there is for this process."""
    return torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else most_bytes()


def most_bytes() -> int:
    """Memory that there is for this process at most, of the machine or of the container it is in."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *(limit for limit, _ in _limits_of_container())])


def _free_of_machine() -> int:
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError):  # not Linux
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _free_of_container(root: Path = Path("/sys/fs/cgroup")) -> list[int]:
    """Limit less use of the control group at the root, as a container sees its own; nothing where it has no limit."""
    return [max(0, limit - used) for limit, used in _limits_of_container(root)]


def _limits_of_container(root: Path = Path("/sys/fs/cgroup")) -> list[tuple[int, int]]:
    """Limit and use of the control group at the root."""
    files = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))
    found = []
    for limit, used in files:  # version 2 and version 1
        try:
            found.append((int((root / limit).read_text()), int((root / used).read_text())))
        except (OSError, ValueError):  # not there, or "max"
            continue
    return found
