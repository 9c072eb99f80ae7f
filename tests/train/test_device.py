"""Which device trains is asked in one place; none is taken in place of another in silence."""

import types

import numpy as np
import pytest
import torch
from tests.train.conftest import rows, trainer_of

from modelwright.cli import call
from modelwright.core.errors import ConfigError
from modelwright.data.loader import Batch, Loader
from modelwright.train import device as devices
from modelwright.train import peak

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@no_gpu
@pytest.mark.parametrize("key", ["train.device=cuda", "train.precision=fp8-mixed"])
def test_what_needs_a_gpu_is_refused_before_there_is_a_run(tmp_path, key, capsys):
    (tmp_path / "recipe.yaml").write_text("task: text-classification\ndata: {source: nowhere}\n")
    found = call(["train", str(tmp_path / "recipe.yaml"), key, "--out", str(tmp_path / "runs")])

    assert 2 == found and "GPU" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@no_gpu
def test_a_gpu_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="torch sees no GPU here") as found:
        trainer_of(tmp_path, device="cuda")

    assert "train.device: cpu, or auto" in str(found.value)


@pytest.mark.parametrize(
    ("asked", "there", "acting", "kind"),
    [("auto", False, False, "cpu"), ("auto", True, False, "cuda"), ("cuda", True, False, "cuda"),
     ("cpu", True, False, "cpu"), ("auto", True, True, "cpu")],
)  # fmt: skip
def test_auto_takes_what_there_is(monkeypatch, asked, there, acting, kind):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)

    assert kind == devices.resolved(asked, acting=acting)


def test_a_task_that_acts_takes_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ConfigError, match="acts is trained on the CPU"):
        devices.resolved("cuda", acting=True)


def test_each_process_has_a_gpu_of_its_own(monkeypatch):
    taken = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)

    assert torch.device("cuda", 1) == devices.of_process("cuda", 1)
    assert [1] == taken
    with pytest.raises(ConfigError, match="process 2 of this machine has no GPU of its own"):
        devices.of_process("cuda", 2)


def test_a_gpu_that_is_seen_alone_is_the_process_s_own(monkeypatch):
    """srun --gpus-per-task=1 shows each process one GPU, whatever its number on the machine."""
    taken = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)

    assert torch.device("cuda", 0) == devices.of_process("cuda", 3)
    assert [0] == taken


def test_a_gpu_that_two_processes_see_is_refused(monkeypatch):
    """By what the GPUs call themselves, in each of the processes."""
    gpu, others = types.SimpleNamespace(uuid="b"), ["a", "c"]
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: gpu)
    monkeypatch.setattr(devices.ranks, "share", lambda own: [*others, own])
    devices.require_own(torch.device("cuda", 0))

    others[1] = "b"
    with pytest.raises(ConfigError, match="processes 1 and 2 would share a GPU") as found:
        devices.require_own(torch.device("cuda", 0))
    assert "--gpus-per-task=1" in found.value.repair


@pytest.mark.parametrize(("capability", "has"), [((8, 0), False), ((8, 9), True), ((9, 0), True)])
def test_float8_has_hardware_from_ada_on(monkeypatch, capability, has):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)

    assert has == devices.has_fp8("cuda")
    assert not devices.has_fp8("cpu")


def test_batches_made_ahead_are_those_of_their_steps(monkeypatch):
    """For a GPU a thread makes the next batch, pinned; jumps and repeats give the same ones."""
    pinned = []
    monkeypatch.setattr(Batch, "pinned", lambda batch: pinned.append(1) or batch)
    loader = Loader(rows(40), batch_size=16, seed=3)
    ahead, plain = devices.Batches(loader, "cuda"), devices.Batches(loader, "cpu")
    for step in (0, 1, 2, 7, 7, 3):
        for one, other in zip(
            ahead(step).inputs.values(), plain(step).inputs.values(), strict=True
        ):
            assert np.array_equal(one, other)

    assert len(pinned) >= 6


def test_memory_on_a_gpu_is_what_was_reserved_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 123)
    assert 123 == peak.peak_memory_bytes()

    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 0)  # it is not what computes
    assert peak.peak_memory_bytes() > 1e6
