"""The processes that train together: torchrun says how many, and here is said what each of them holds."""

import warnings
from collections.abc import Sequence
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    FullyShardedDataParallelPlugin,
    InitProcessGroupKwargs,
)
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor

from training.recipes.recipe import Precision

PATIENCE = timedelta(hours=24)  # the others wait while the first process tokenises, or writes a checkpoint


def make_accelerator(*, precision: Precision, is_sharded: bool) -> Accelerator:
    """What trains on one device, or on all that torchrun started processes for.

    Args:
        precision: of matrix work.
        is_sharded: cut weights, gradients and optimiser states up among the processes (FSDP2), a layer at a time;
            otherwise each process holds them all (DDP).

    Raises:
        ValueError: there is nothing to shard over.
    """
    replication = DistributedDataParallelKwargs(
        broadcast_buffers=False,  # they are constants, and in use by forward passes whose backward is to come
        find_unused_parameters=True,  # where a substep is one segment, the last has no use for the summary embeddings
    )
    accelerator = Accelerator(
        mixed_precision=precision,
        cpu=not torch.cuda.is_available(),
        fsdp_plugin=sharding(precision) if is_sharded else None,
        kwargs_handlers=[replication, InitProcessGroupKwargs(timeout=PATIENCE)],
    )
    if is_sharded and accelerator.distributed_type != DistributedType.FSDP:
        raise ValueError(
            f"sharding is over the GPUs of processes that torchrun starts; this is {accelerator.num_processes} "
            f"on {accelerator.device.type}"
        )
    return accelerator


def sharding(precision: Precision) -> FullyShardedDataParallelPlugin:
    """FSDP2; gradients are added up over processes in float32, whatever the precision."""
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if precision == "bf16" else None, reduce_dtype=torch.float32
    )
    return FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", mixed_precision_policy=policy
    )


def prepare(
    accelerator: Accelerator, model: nn.Module, optimisers: Sequence[torch.optim.Optimizer]
) -> tuple[nn.Module, list[torch.optim.Optimizer]]:
    """The model and its optimisers, on their device and replicated or sharded; to be called in place of the model."""
    if accelerator.distributed_type == DistributedType.FSDP:
        accelerator.state.fsdp_plugin.transformer_cls_names_to_wrap = layer_names(model)
    with warnings.catch_warnings():
        # torch's new name for it still copies buffers once, and torch 2.11 does not have it
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        prepared, *wrapped = accelerator.prepare(model, *optimisers)
    return prepared, [optimiser.optimizer for optimiser in wrapped]


def layer_names(model: nn.Module) -> list[str]:
    """The classes of a model's layers: transformers names them as what must stay on one device."""
    present = {type(module).__name__ for module in model.modules()}
    named = {name for module in model.modules() for name in getattr(module, "_no_split_modules", None) or ()}
    return sorted(named & present)


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may be sharded, put together; all processes call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
