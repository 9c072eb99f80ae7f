"""Optimizers over parameters in shards (FSDP2) take the steps of one process."""

import copy

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from modelwright.train.optimizers import clip_, make_optimizer

from .processes import run_ranks

WORLD, STEPS, MAX_NORM = 2, 3, 0.5
WAYS = {  # name -> keys of make_optimizer
    "muon": {"name": "muon", "learning_rate": 0.05, "weight_decay": 0.1},
    "cautious muon": {
        "name": "muon", "learning_rate": 0.05, "weight_decay": 0.1, "cautious": True,
    },
    "adamw": {"name": "adamw", "learning_rate": 0.05, "weight_decay": 0.1},
    "sgd": {"name": "sgd", "learning_rate": 0.05, "weight_decay": 0.1},
    "adafactor": {"name": "adafactor", "learning_rate": 0.05, "weight_decay": 0.1},
}  # fmt: skip


class Net(nn.Module):
    """Matrices whose rows do not divide by two, between ends that Muon leaves alone."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(6, 12)
        self.body = nn.Sequential(nn.Linear(12, 33), nn.Tanh(), nn.Linear(33, 7))
        self.head = nn.Linear(7, 3)

    def forward(self, rows):
        return self.head(self.body(self.embed(rows)))


def work(rank):
    """One process: each way's steps, whole and in shards, side by side."""
    mesh = init_device_mesh("cpu", (WORLD,))
    found = {}
    for way, keys in WAYS.items():
        torch.manual_seed(0)
        whole = Net()
        sharded = copy.deepcopy(whole)
        fully_shard(sharded.body, mesh=mesh)
        fully_shard(sharded, mesh=mesh)
        nets = (whole, sharded)
        optimizers = [make_optimizer(net, **keys) for net in nets]
        norms = []
        for step in range(STEPS):
            torch.manual_seed(step)
            rows = torch.randn(16, 6)
            for net, optimizer in zip(nets, optimizers, strict=True):
                (net(rows) ** 2).sum().backward()
                norms.append(clip_(net.parameters(), MAX_NORM).item())
                optimizer.step()
                optimizer.zero_grad()
        pairs = zip(whole.parameters(), sharded.parameters(), strict=True)
        found[way] = {
            "apart": max((one - other.full_tensor()).abs().max().item() for one, other in pairs),
            "whole": norms[0::2],
            "sharded": norms[1::2],
            "local": sum(one.to_local().numel() for one in sharded.parameters()),
            "all": sum(one.numel() for one in whole.parameters()),
        }
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each process saw."""
    return run_ranks(tmp_path_factory.mktemp("shards"), WORLD, work)


@pytest.mark.parametrize("way", WAYS)
def test_shards_step_as_one_process_does(found, way):
    """After three clipped steps no weight is farther than 1e-6 from where one process has it."""
    for one in found:
        assert 1e-6 > one[way]["apart"]
        assert one[way]["local"] < one[way]["all"]


def test_the_norm_is_of_the_whole_gradient(found):
    """Every process measures the length that one process alone does."""
    for one in found:
        assert pytest.approx(one["muon"]["whole"], rel=1e-5) == one["muon"]["sharded"]
        assert MAX_NORM < min(one["muon"]["whole"])
