"""What a checkpoint costs training: how long the loop stands still, and how long the disk takes.

Two transformers that write, of 0.8 and of 20 million parameters, with AdamW's moments, averaged
weights and the best ones so far: five copies in all. Each is saved between steps, once in the
background as training does it, once waited for. With --quick the small one alone.
Bounds: the loop stands still for less than a quarter of a whole save, and a kept checkpoint is
resumed bit by bit.

    python benchmarks/checkpoints.py [--quick] [--json]
"""

import copy
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from bench import Row, arguments, at_most, exactly, finish
from modelwright.core.hardware import keep_freed_memory
from modelwright.train import checkpoint, state
from modelwright.train.saver import Saver

SAVES = 5
SIZES = {"0.8M": (4, 128), "20M": (6, 512)}  # layers and width of each


def training(layers: int, width: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    block = nn.TransformerEncoderLayer(width, 4, 4 * width, batch_first=True, norm_first=True)
    model = nn.Sequential(*(copy.deepcopy(block) for _ in range(layers)))
    return model, torch.optim.AdamW(model.parameters(), fused=True)


def step_of(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: torch.Tensor) -> float:
    started = time.perf_counter()
    model(inputs).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    return time.perf_counter() - started


def measure(name: str, layers: int, width: int) -> list[Row]:
    model, optimizer = training(layers, width)
    inputs = torch.randn(4, 32, width)
    average = {key: value.clone() for key, value in model.state_dict().items()}
    alone, held, whole, beside = [], [], [], []
    for _ in range(SAVES):
        alone.append(step_of(model, optimizer, inputs))
    with tempfile.TemporaryDirectory() as folder:
        saver = Saver(Path(folder), keep=2)
        for save in range(2 * SAVES):
            step_of(model, optimizer, inputs)
            tensors = state.gather(model, optimizer, average=average, best=average, more={})
            started = time.perf_counter()
            saver.begin(step=save, tensors=tensors, position={})
            if save % 2:
                saver.wait()
                whole.append(time.perf_counter() - started)
            else:
                held.append(time.perf_counter() - started)
                beside.append(step_of(model, optimizer, inputs))
                saver.wait()
        newest = checkpoint.newest(Path(folder))
        assert newest is not None
        size = sum(shard["bytes"] for shard in newest["shards"].values())
        again = training(layers, width)
        empty = {key: torch.zeros_like(value) for key, value in average.items()}
        room = state.make_room(newest, *again, average=empty)
        started = time.perf_counter()
        checkpoint.restore(newest, room)
        resumed = time.perf_counter() - started
    kept = state.gather(model, optimizer, average=average, best=average, more={})
    equal = kept.keys() == room.keys() and all(torch.equal(kept[n], room[n]) for n in kept)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    hold, save_s = statistics.median(held), statistics.median(whole)
    return [
        Row(f"{name}: parameters", parameters),
        Row(f"{name}: checkpoint, MB", round(size / 1e6, 1)),
        at_most(f"{name}: the loop stands still, ms", 1e3 * hold, 1e3 * save_s / 4),
        Row(f"{name}: a whole save, ms", round(1e3 * save_s, 1)),
        Row(f"{name}: a step alone, ms", round(1e3 * statistics.median(alone), 1)),
        Row(f"{name}: a step beside a save, ms", round(1e3 * statistics.median(beside), 1)),
        Row(f"{name}: resumed, ms", round(1e3 * resumed, 1)),
        exactly(f"{name}: resumed bit by bit", equal, True),
    ]


def main() -> None:
    options = arguments(__doc__).parse_args()
    keep_freed_memory()  # as training does
    names = ["0.8M"] if options.quick else list(SIZES)
    rows = [row for name in names for row in measure(name, *SIZES[name])]
    finish(rows, as_json=options.json)


if __name__ == "__main__":
    main()
