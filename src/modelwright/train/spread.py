"""How a model's parameters lie on several devices: blocks dealt out, matrices cut by heads, norms
that see all rows.

Source: Shoeybi et al. 2019, arXiv:1909.08053, section 3 (matrices); Ioffe, Szegedy 2015,
arXiv:1502.03167 (batch norm, here over the union of batches).
"""

import itertools
import logging
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed._functional_collectives import all_reduce
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.distributed.tensor.placement_types import Shard

from modelwright.core.errors import ConfigError
from modelwright.models.layers import Attention, CrossAttention, GatedSiLU
from modelwright.models.stretch import blocks_of, chain_of, keep_blocks
from modelwright.models.transformer import EncoderBlock

# what it says of sums over two axes of the mesh is for who lays the mesh out, not for a recipe
logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)


@dataclass(frozen=True)
class Dealt:
    """The blocks of a model, dealt out to the processes of a pipeline.

    blocks: numbers of those of every stretch, in turn; the stretches go round the processes.
    homes: which process has what, by name, of what one alone has.
    shapes: of all that the whole model has, by name.
    """

    group: dist.ProcessGroup
    blocks: list[range]
    homes: dict[str, int]
    shapes: dict[str, tuple[torch.Size, torch.dtype]]

    def send(self, name: str, value: Tensor | None, device: torch.device) -> Tensor:
        """What one process has alone, from that one to all of them; what all have stays."""
        if name in self.homes:
            shape, dtype = self.shapes[name]
            if value is None:
                value = torch.empty(shape, dtype=dtype, device=device)
            value = value.contiguous()
            dist.broadcast(value, group=self.group, group_src=self.homes[name])
        assert value is not None
        return value


def deal_blocks(model: nn.Module, group: dist.ProcessGroup, stretches: int) -> Dealt:
    """Leave this process its stretches of a model's blocks, all of about equal number.

    Raises: ConfigError if there are fewer blocks than stretches.
    """
    blocks, processes = chain_of(model), group.size()
    parts, number = processes * stretches, len(blocks)
    if number < parts:
        raise ConfigError(
            f"train.layout: pipeline {processes}"
            + (f" times virtual_pipeline {stretches}" if stretches > 1 else "")
            + f" for {number} blocks",
            expected="no more stretches than blocks",
            repair="a smaller degree or a larger model",
        )
    ends = [part * number // parts for part in range(parts + 1)]
    every = [range(*both) for both in itertools.pairwise(ends)]
    homes = [part % processes for part, own in enumerate(every) for _ in own]
    shapes = {name: (value.shape, value.dtype) for name, value in model.state_dict().items()}
    named = {
        name: home
        for name in shapes
        for block, home in zip(blocks, homes, strict=True)
        if any(name.startswith(f"{part}.") for part in block)
    }
    keep_blocks(model, [block for block, home in enumerate(homes) if home == group.rank()])
    return Dealt(group, every, named, shapes)


def cut_everything(model: nn.Module, mesh: DeviceMesh) -> None:
    """Cut all parameters, block by block, over the last axis of a mesh; copies over the first."""
    model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    for block in blocks_of(model):
        fully_shard(block, mesh=mesh)
        if hasattr(block, "remember"):  # called beside forward
            register_fsdp_forward_method(block, "remember")
    fully_shard(model, mesh=mesh)


def cut_matrices(model: nn.Module, mesh: DeviceMesh) -> None:
    """Deal out heads and hidden units of every block, and between them its places.

    Raises: ConfigError if a model has none, or they can't be dealt out evenly.
    """
    blocks, parts = list(model.named_modules()), mesh.size()
    into = ColwiseParallel(input_layouts=Shard(1))  # brings the places of all together
    out_of = RowwiseParallel(output_layouts=Shard(1))
    norm = SequenceParallel(use_local_output=True)
    if not any(isinstance(module, EncoderBlock) for _, module in blocks):
        raise _does_not_fit(parts, "the model has no transformer blocks")
    for _, module in blocks:
        plan: dict[str, ParallelStyle] = {}
        if isinstance(module, Attention):
            if module.num_kv_heads % parts:
                raise _does_not_fit(parts, f"it does not divide {module.num_kv_heads} heads")
            plan = {"qkv": into, "out": out_of}
        elif isinstance(module, CrossAttention):
            plan = {"norm": norm, "query": into, "key_value": ColwiseParallel(), "out": out_of}
        elif isinstance(module, EncoderBlock):
            if isinstance(module.mlp[1], GatedSiLU):
                raise _does_not_fit(parts, "gates and what they gate would be torn apart (swiglu)")
            units = len(module.mlp.get_parameter("0.bias"))
            if units % parts:
                raise _does_not_fit(parts, f"it does not divide {units} units")
            plan = {"attention_norm": norm, "mlp_norm": norm, "mlp.0": into, "mlp.2": out_of}
        if plan:
            parallelize_module(module, mesh, plan)


def _does_not_fit(parts: int, reason: str) -> ConfigError:
    return ConfigError(
        f"train.layout: tensor {parts}: {reason}",
        expected="a transformer whose heads and hidden units the degree divides",
        repair="another degree, or data and sharded instead",
    )


def synchronize_batch_norms(model: nn.Module, group: dist.ProcessGroup) -> None:
    """Let batch norms in training see the rows of all in a group, so that layouts agree.

    torch's own needs a GPU.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = _SyncedBatchNorm
            module.__dict__["group"] = group


class _SyncedBatchNorm(nn.BatchNorm2d):
    """Batch norm over the rows of several processes, as many in each."""

    group: dist.ProcessGroup

    def forward(self, features: Tensor) -> Tensor:
        if not self.training:
            return super().forward(features)
        number, dims = dist.get_world_size(self.group), (0, 2, 3)
        exact = features.float()
        mean = self._sum(exact.mean(dims)) / number
        centered = exact - mean[:, None, None]
        variance = self._sum(centered.square().mean(dims)) / number
        with torch.no_grad():
            rows = number * features.numel() // features.shape[1]
            assert self.running_mean is not None and self.running_var is not None
            assert self.momentum is not None and self.num_batches_tracked is not None
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * rows / max(1, rows - 1), self.momentum)
            self.num_batches_tracked += 1
        scale = self.weight * (variance + self.eps).rsqrt()
        shifted = centered * scale[:, None, None] + self.bias[:, None, None]
        return torch.as_tensor(shifted.to(features.dtype))

    def _sum(self, value: Tensor) -> Tensor:
        """Over processes; gradients go back to all."""
        return torch.as_tensor(all_reduce(value, "sum", self.group))
