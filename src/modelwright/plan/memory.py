"""Peak memory of training, predicted before anything is allocated.

Saved activations are read off one forward pass on fake tensors, which have shapes and no data:
whatever autograd keeps is counted once per storage. The rest follows from the parameters.
Source of the breakdown: Korthikanti et al. 2022, arXiv:2205.05198, section 4.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from modelwright.core.hardware import give_back_freed_memory
from modelwright.core.recipe import OptimizerName, Precision, Recompute
from modelwright.core.units import format_bytes
from modelwright.models.catalog import ModelSpec, build, examples
from modelwright.models.rnn import RecurrentBody
from modelwright.models.stretch import blocks_of
from modelwright.plan.count import remembered
from modelwright.plan.shares import Share
from modelwright.train.optimizers import state_bytes
from modelwright.train.precision import autocast, lower_weights
from modelwright.train.recompute import KEPT
from modelwright.train.rounding import workspace_bytes

# Share of activations and workspace that the C allocator holds on top, in fragments and in the
# libraries' own buffers; fitted once over the families by benchmarks/plan_accuracy.py.
ALLOCATOR_SHARE = 0.5


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of a training process at its peak, part by part."""

    process: int
    data: int
    weights: int
    gradients: int
    optimizer: int
    copies: int
    checkpoint: int
    activations: int
    workspace: int
    buffers: int = 0  # in which several processes put parameters and gradients together

    @property
    def total(self) -> int:
        return sum(asdict(self).values())


def predict(
    spec: ModelSpec,
    *,
    micro_batch_size: int,
    precision: Precision,
    optimizer: OptimizerName,
    copies: int,
    data_bytes: int,
    process_bytes: int,
    recompute: Recompute = "none",
    moment_copies: int = 1,
    best: bool = False,
    share: Share | None = None,
    device: str = "cpu",
) -> MemoryPlan:
    """Peak resident memory of training `spec`, in bytes; of several processes, the first one's.

    Args:
        micro_batch_size: examples in one forward pass.
        copies: of the weights that are kept beside them: averaged ones, those before a step with
            cautious weight decay.
        process_bytes: of the interpreter with its libraries, measured on this machine.
        recompute: blocks keep only what comes in, of `selective` their products too, and one at a
            time all the rest.
        moment_copies: of the optimizer's state; two where one is kept to go back to.
        best: whether the best weights so far are kept; they are whole, however the others lie.
        share: what that process has of the training; all of it where there is none.
        device: the type of the one that trains; a checkpoint is written from the CPU's memory.
    """
    share = share or Share(micro_batch_size, micro_batch_size)
    rows = min(micro_batch_size, share.pass_rows)
    activations, largest, *whole = _activations(spec, rows, precision, optimizer, recompute)
    state, moments, learned, stepping = (round(share.weights * size) for size in whole)
    # backward holds the gradient that comes in and the one that goes out
    workspace = 2 * largest + round(ALLOCATOR_SHARE * (activations + 2 * largest))
    workspace = max(workspace, stepping - activations)  # which are gone when a step is taken
    kept = copies * state + best * whole[0]
    played = share.played if device == "cpu" else 0  # a GPU has none of it
    written = learned + moment_copies * moments + kept + played
    return MemoryPlan(
        process=process_bytes,
        data=data_bytes + played,
        weights=learned,
        gradients=learned,
        optimizer=moment_copies * moments,
        copies=kept + share.copies * whole[0],
        checkpoint=written if device == "cpu" else 0,  # training goes on meanwhile
        activations=activations,
        workspace=workspace,
        buffers=share.buffers,
    )


def in_words(parts: Mapping[str, int]) -> str:
    """A plan's fields as one sentence, the largest first.

    >>> in_words({"process": 300_000_000, "activations": 700_000_000, "data": 0})
    'the plan predicted 1 GB (activations 700 MB, process 300 MB)'
    """
    ordered = sorted(parts.items(), key=lambda part: -part[1])
    shown = ", ".join(f"{name} {format_bytes(size)}" for name, size in ordered if size)
    return f"the plan predicted {format_bytes(sum(parts.values()))} ({shown})"


def resident_bytes() -> int:
    """Memory that this process holds now, after giving back what the allocator can spare."""
    give_back_freed_memory()
    return int(psutil.Process().memory_info().rss)


@remembered
def _activations(
    spec: ModelSpec,
    micro_batch_size: int,
    precision: Precision,
    optimizer: OptimizerName,
    recompute: Recompute,
) -> tuple[int, int, int, int, int, int]:
    """Bytes kept for backward, of the largest layer output, the weights in float32, the optimizer's
    state, the weights as they learn, what a step of them takes beside."""
    kept: dict[object, int] = {}
    largest = 0

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        alive.append(tensor)
        return tensor

    def look(module: nn.Module, inputs: object, output: object) -> None:
        nonlocal largest
        first = output[0] if isinstance(output, tuple) else output
        if not isinstance(first, Tensor):
            return
        largest = max(largest, first.untyped_storage().nbytes())
        if isinstance(module, RecurrentBody):
            recurrent.append(_recurrent_bytes(module.layers, first))

    def enter(block: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        incoming = inputs[0].untyped_storage().nbytes()
        entered[block] = (sum(kept.values()), incoming - products.total)

    def leave(block: nn.Module, inputs: object, output: object) -> None:
        before, incoming = entered[block]
        spared.append((sum(kept.values()) - before, incoming + products.total))

    products = _Products()
    entered: dict[nn.Module, tuple[int, int]] = {}
    spared: list[tuple[int, int]] = []  # of each block: what it keeps, or else would
    recurrent: list[int] = []
    alive: list[Tensor] = []  # a freed storage could lend its identity to another
    with FakeTensorMode():
        model = build(spec).train()
        own = {value.untyped_storage()._cdata for value in model.state_dict().values()}
        state = sum(value.untyped_storage().nbytes() for value in model.state_dict().values())
        moments = state_bytes(model, optimizer)
        stepping = 0
        if precision == "bf16-true":
            lower_weights(model)
            stepping = workspace_bytes(model)
        learned = sum(value.nbytes for value in model.state_dict().values())
        for module in model.modules():
            if isinstance(module, RecurrentBody) or not list(module.children()):
                module.register_forward_hook(look)
        for block in blocks_of(model) if recompute != "none" else ():
            block.register_forward_pre_hook(enter)
            block.register_forward_hook(leave)
        longest = spec.inputs.get("max_length")
        inputs = examples(spec, micro_batch_size, longest)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            counting = products if recompute == "selective" else contextlib.nullcontext()
            with counting, autocast(precision):
                outputs = model(*inputs.values()).float()
            _ = outputs.log_softmax(-1) if "num_classes" in spec.outputs else outputs.square()
    saved = sum(size for key, size in kept.items() if key not in own) + sum(recurrent)
    if spared:
        saved += sum(incoming - inside for inside, incoming in spared) + max(spared)[0]
    return saved, largest, state, moments, learned, stepping


class _Products(TorchDispatchMode):
    """Counts the bytes of results that `selective` keeps."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func in KEPT:
            self.total += sum(one.nbytes for one in tree_leaves(found) if isinstance(one, Tensor))
        return found


def _recurrent_bytes(module: nn.RNNBase, output: Tensor) -> int:
    """What the fused kernel keeps in float32 and autograd does not see: gates and both states."""
    gates = {"LSTM": 4, "GRU": 3}[module.mode]
    steps = output.shape[0] * output.shape[1] * module.num_layers
    directions = 2 if module.bidirectional else 1
    return 4 * steps * directions * (gates + 2) * module.hidden_size
