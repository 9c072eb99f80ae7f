"""A checkpoint taken by one layout is taken up by any other; one that is not whole, by none."""

import errno
import os
import pickle
import signal
import warnings

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

from modelwright.core.errors import IntegrityError, StorageError, Unsupported
from modelwright.train import checkpoint, ranks, shards, state
from modelwright.train.adafactor import Adafactor
from modelwright.train.shards import require_whole

from .processes import run_ranks, save_now

pytestmark = pytest.mark.filterwarnings("ignore")


def whole():
    """Tensors of every kind that a training has."""
    torch.manual_seed(0)
    return {
        "model.weight": torch.randn(5, 6),  # five rows over two ranks: one has more
        "model.bias": torch.randn(7),
        "model.half": torch.randn(4, 2).bfloat16(),
        "model.last": torch.randn(3, 4, 2, 2).to(memory_format=torch.channels_last),
        "optimizer.weight.step": torch.tensor(3.0),
        "more.flags": torch.tensor([True, False, True]),
        "more.none": torch.zeros(0, 3),
    }


LAYOUTS = {
    "rows": {"model.weight": [Shard(0)], "model.bias": [Shard(0)], "model.half": [Shard(0)]},
    "columns": {"model.weight": [Shard(1)], "model.half": [Shard(1)], "model.last": [Shard(0)]},
    "copies": {"model.weight": [Replicate()], "model.bias": [Replicate()]},
    "plain": {},
    "grid": {"model.weight": [Shard(0), Shard(1)], "model.bias": [Replicate(), Shard(0)],
             "model.half": [Shard(0), Replicate()]},
    "one": {},
}  # fmt: skip
RANKS = {"grid": 4, "one": 1}


def cut(layout, tensors):
    """The tensors as they lie on this rank."""
    placements = LAYOUTS[layout]
    if not placements:
        return dict(tensors)
    shape = (2, 2) if layout == "grid" else (2,)
    mesh = init_device_mesh("cpu", shape)
    return {
        name: distribute_tensor(tensor, mesh, placements[name]) if name in placements else tensor
        for name, tensor in tensors.items()
    }


def save_as(rank, layout, folder):
    save_now(folder, step=7, tensors=cut(layout, whole()), position={"a": 1}, keep=2)


def restore_as(rank, layout, folder):
    """Names of the tensors that came back different."""
    room = cut(layout, {name: torch.zeros_like(value) for name, value in whole().items()})
    record = checkpoint.newest(folder)
    checkpoint.restore(record, room)
    back = {name: value.full_tensor() if isinstance(value, DTensor) else value
            for name, value in room.items()}  # fmt: skip
    assert (7, {"a": 1}) == (record["step"], record["position"])
    return [name for name, value in whole().items() if not torch.equal(value, back[name])]


def on_ranks(folder, layout, act):
    number = RANKS.get(layout, 2)
    if number == 1:
        return [act(0, layout, folder / "kept")]
    return run_ranks(folder, number, act, layout, folder / "kept")


SLOWER = (("columns", "plain"), ("plain", "one"), ("grid", "columns"), ("rows", "grid"))
PAIRS = [
    ("rows", "one"), ("one", "rows"), ("rows", "columns"), ("copies", "columns"),
    *(pytest.param(*pair, marks=pytest.mark.slow) for pair in SLOWER),
]  # fmt: skip


@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_any_layout_takes_up_any_other(tmp_path, before, after):
    """Whatever the number of processes and the cut, every value comes back bit by bit."""
    on_ranks(tmp_path, before, save_as)

    assert [[]] * RANKS.get(after, 2) == on_ranks(tmp_path, after, restore_as)


@pytest.mark.parametrize("layout", ["one", "rows", "copies"])
def test_torch_reads_it_too(tmp_path, layout):
    """What torch.distributed.checkpoint's own reader finds in a folder is what was saved; what
    several ranks have alike is there once."""
    on_ranks(tmp_path, layout, save_as)
    (folder,) = (tmp_path / "kept").glob("step-*")
    wanted = whole()
    room = {name: torch.zeros_like(value) for name, value in wanted.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.load(room, storage_reader=dcp.HuggingFaceStorageReader(str(folder)), no_dist=True)
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))

    assert [] == [name for name, value in wanted.items() if not torch.equal(value, room[name])]
    assert size < sum(value.nbytes for value in whole().values()) + 1200 * RANKS.get(layout, 2)


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 4))


def divided(how):
    """A network and its optimizer on this rank, as the layout says."""
    model = network()
    if how != "one":
        mesh = init_device_mesh("cpu", (2,))
        if how == "fsdp":
            fully_shard(model, mesh=mesh)
        else:
            plan = {"0": ColwiseParallel(), "2": RowwiseParallel()}
            model = parallelize_module(model, mesh, plan)
    return model, torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.01)


def steps(model, optimizer, number):
    """The losses of some steps on the same rows on every rank."""
    torch.manual_seed(2)
    inputs, losses = torch.randn(8, 6), []
    for _ in range(number):
        loss = model(inputs).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def begin(rank, how, folder):
    """Two steps, a checkpoint, and the losses of the three that would come next."""
    model, optimizer = divided(how)
    steps(model, optimizer, 2)
    tensors = state.gather(model, optimizer, average={}, best={}, more={})
    save_now(folder, step=2, tensors=tensors, position={}, keep=1)
    return steps(model, optimizer, 3)


def go_on(rank, how, folder):
    """The losses of three steps from the checkpoint on."""
    model, optimizer = divided(how)
    record = checkpoint.newest(folder)
    checkpoint.restore(record, state.make_room(record, model, optimizer, average={}))
    return steps(model, optimizer, 3)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("fsdp", "tensor"),
        *(
            pytest.param(*pair, marks=pytest.mark.slow)
            for pair in (("fsdp", "one"), ("one", "fsdp"), ("tensor", "fsdp"))
        ),
    ],
)
def test_training_goes_on_in_another_layout(tmp_path, before, after):
    """Weights and AdamW's moments of FSDP2, tensor parallel and one process are taken up by each
    other: the next losses are those that would have come."""
    (wanted, *_) = on_ranks_of(tmp_path, before, begin)
    found = on_ranks_of(tmp_path, after, go_on)

    assert all(pytest.approx(wanted, rel=1e-5) == losses for losses in found)
    assert wanted[0] != wanted[2]


def on_ranks_of(folder, how, act):
    if how == "one":
        return [act(0, how, folder / "kept")]
    return run_ranks(folder, 2, act, how, folder / "kept")


def room_on(device, record, *, fused=False):
    """Where a training on a device puts what a record says, by name."""
    model = nn.Linear(6, 5, device=device)
    optimizer = Adafactor(model.parameters(), 0.1)
    optimizer.param_groups[0]["fused"] = fused
    room = state.make_room({"tensors": record}, model, optimizer, average={})
    assert room["optimizer.weight.step"] is optimizer.state[model.weight]["step"]
    return {name: value.device.type for name, value in room.items()}


RECORD = {
    "optimizer.weight.row_var": [[5], "F32"], "optimizer.weight.col_var": [[6], "F32"],
    "optimizer.weight.moment": [[5, 6], "F32"], "optimizer.weight.step": [[], "F32"],
    "more.snapshot.model.weight": [[5, 6], "F32"], "more.seen": [[3], "F64"],
    "more.snapshot.optimizer.weight.row_var": [[5], "F32"], "best.weight": [[5, 6], "F32"],
}  # fmt: skip


@pytest.mark.parametrize("fused", [False, True])
def test_room_is_where_the_next_step_wants_it(fused):
    """State beside its parameter, and counts of steps there where the step is one kernel; what
    waits to be gone back to, or is of the first process alone, on the CPU."""
    found = room_on("meta", RECORD, fused=fused)
    there = {name for name, device in found.items() if device == "meta"}

    assert {"meta", "cpu"} == set(found.values())
    assert {
        "model.weight", "model.bias", "optimizer.weight.row_var", "optimizer.weight.col_var",
        "optimizer.weight.moment", *(["optimizer.weight.step"] if fused else []),
    } == there  # fmt: skip
    assert RECORD.keys() <= found.keys()


def test_either_type_of_vectors_is_taken(tmp_path):
    """bf16-true keeps them in float32, and cut by FSDP2 in bfloat16: one takes up the other's."""
    wide = torch.tensor([1.0, 2.0, 3.0])
    save_now(tmp_path, step=1, tensors={"a": wide, "b": wide.bfloat16()}, position={}, keep=1)
    room = {"a": torch.zeros(3, dtype=torch.bfloat16), "b": torch.zeros(3)}
    checkpoint.restore(checkpoint.newest(tmp_path), room)

    assert torch.equal(wide.bfloat16(), room["a"]) and torch.equal(wide, room["b"])


@pytest.mark.parametrize("dtype", [torch.int64, torch.float16, torch.float64])
def test_another_type_is_refused(tmp_path, dtype):
    """By the tensor's name, before a value is touched."""
    save_now(tmp_path, step=1, tensors={"a": torch.ones(3)}, position={}, keep=1)
    room = {"a": torch.zeros(3, dtype=dtype)}
    with pytest.raises(IntegrityError, match=r"a is .* and was"):
        checkpoint.restore(checkpoint.newest(tmp_path), room)

    assert not room["a"].any()


@pytest.mark.parametrize("name", ["read_bytes", "iterdir", "sha256"])
def test_a_checkpoint_that_a_disk_does_not_give_is_said(tmp_path, monkeypatch, name):
    """An error of its own, and how to go back to the one before."""
    save_now(tmp_path, step=1, tensors={"a": torch.ones(3)}, position={}, keep=1)
    record, room = checkpoint.newest(tmp_path), {"a": torch.zeros(3)}

    def refuse(*_, **__):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(checkpoint if name == "sha256" else type(tmp_path), name, refuse)
    with pytest.raises(IntegrityError, match="can't be read: Input/output error") as caught:
        checkpoint.restore(record, room) if name == "sha256" else checkpoint.newest(tmp_path)
    assert "go back to the one before" in caught.value.repair


def save_own(rank, folder):
    mine = {f"model.stage{rank}": torch.full((3,), float(rank)), "model.all": torch.ones(2)}
    save_now(folder, step=1, tensors=mine, position={}, keep=1)


def test_what_only_one_rank_has_is_saved(tmp_path):
    """Of a pipeline each rank has layers of its own: all of them are in the checkpoint."""
    run_ranks(tmp_path, 2, save_own, tmp_path / "kept")
    record = checkpoint.newest(tmp_path / "kept")
    room = checkpoint.room_for(record, "")
    checkpoint.restore(record, room)

    assert {"model.all": 1.0, "model.stage0": 0.0, "model.stage1": 1.0} == {
        name: float(value[0]) for name, value in room.items()
    }


def without_pickle(rank, folder):
    """Save and restore where whatever pickles raises."""

    def refuse(*arguments, **keys):
        raise AssertionError("pickled")

    for module, names in (
        (pickle, ("dumps", "dump", "loads", "load", "Pickler", "Unpickler")),
        (dist.distributed_c10d, ("_pickler", "_unpickler")),
        (torch, ("save", "load")),
    ):
        for name in names:
            setattr(module, name, refuse)
    save_as(rank, "rows", folder)
    return restore_as(rank, "columns", folder)


def test_nothing_is_pickled(tmp_path):
    """Neither files nor messages between ranks are pickles."""
    found = []
    import multiprocessing.connection as connection  # the test's own way home pickles

    dumps = connection._ForkingPickler.dumps
    try:
        found = run_ranks(tmp_path, 2, without_pickle, tmp_path / "kept")
    finally:
        connection._ForkingPickler.dumps = dumps

    assert [[], []] == found


def fail_on_rank_1(rank, folder):
    save_as(rank, "plain", folder)
    if rank == 1:

        def refuse(path, pieces):
            raise OSError(28, os.strerror(28))

        checkpoint.write_shard = refuse
    try:
        save_now(folder, step=8, tensors=whole(), position={}, keep=2)
    except StorageError as error:
        return error.what, checkpoint.newest(folder)["step"], [one.name for one in folder.iterdir()]


def test_one_full_disk_stops_every_rank(tmp_path):
    """A write refused on one rank is a StorageError on all, with that rank's words; the checkpoint
    before is intact and nothing half-written is left."""
    zero, one = run_ranks(tmp_path, 2, fail_on_rank_1, tmp_path / "kept")

    assert "rank 1: cannot write" in zero[0] and "No space left" in zero[0]
    assert one[0].startswith("cannot write")
    assert (7, ["step-00000007"]) == zero[1:]


def die_while_writing(rank, folder):
    save_as(rank, "plain", folder)
    if rank == 1:
        checkpoint.write_shard = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    try:
        save_now(folder, step=8, tensors=whole(), position={}, keep=2)
    except StorageError as error:
        with ranks.alone():
            return error.what, checkpoint.newest(folder)["step"]


def test_a_rank_killed_in_a_save_is_an_error_on_the_others(tmp_path):
    """The others end with a typed error, and the checkpoint before stays the newest."""
    zero, one = run_ranks(tmp_path, 2, die_while_writing, tmp_path / "kept")

    assert one is None
    assert "lost another process" in zero[0] and 7 == zero[1]


def break_shard(rank, layout, folder):
    record = checkpoint.newest(folder)
    room = {name: torch.zeros_like(value) for name, value in whole().items()}
    try:
        checkpoint.restore(record, room)
    except IntegrityError as error:
        return error.what, all(not value.any() for value in room.values())


def test_every_rank_refuses_what_one_finds_broken(tmp_path):
    """Each rank reads a part of the files for their SHA-256; one wrong bit stops them all before
    a tensor is touched."""
    on_ranks(tmp_path, "rows", save_as)
    path = tmp_path / "kept/step-00000007/shard-00001.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)

    for what, untouched in on_ranks(tmp_path, "plain", break_shard):
        assert path.name in what and untouched


@pytest.mark.parametrize("damage", ["missing", "too many", "longer", "no record"])
def test_a_folder_that_is_not_whole_is_refused(tmp_path, damage):
    """A shard that is missing, is one too many or has another size stops the run, by its name."""
    on_ranks(tmp_path, "rows", save_as)
    folder = tmp_path / "kept/step-00000007"
    path = folder / "shard-00001.safetensors"
    if damage == "missing":
        path.unlink()
    elif damage == "too many":
        path = folder / "shard-00002.safetensors"
        path.write_bytes((folder / "shard-00001.safetensors").read_bytes())
    elif damage == "longer":
        path.write_bytes(path.read_bytes() + b"\0")
    else:
        path = folder / checkpoint.RECORD
        path.unlink()

    with pytest.raises(IntegrityError, match=path.name):
        checkpoint.newest(tmp_path / "kept")


def box(offsets, sizes, shape=(4, 4)):
    return {"shape": list(shape), "dtype": "F32", "offsets": offsets, "sizes": sizes}


@pytest.mark.parametrize(
    "boxes",
    [
        [box([0, 0], [2, 4])],  # a gap
        [box([0, 0], [2, 4]), box([1, 0], [2, 4])],  # as many values as needed, some twice
        [box([0, 0], [2, 4]), box([2, 0], [2, 4], (4, 5))],  # parts of different tensors
    ],
)
def test_pieces_that_are_not_the_tensor_are_refused(boxes):
    """A checkpoint that nobody could restore is not written."""
    with pytest.raises(Unsupported, match=r"model\.weight"):
        require_whole("model.weight", boxes)


def test_pieces_that_are_the_tensor_are_taken():
    """Boxes side by side in both dimensions are a whole."""
    require_whole("model.weight", [box([0, 0], [2, 4]), box([2, 0], [2, 1]), box([2, 1], [2, 3])])


def test_a_dtype_without_a_name_is_refused():
    """What safetensors has no word for is an error when saving, by the tensor's name."""
    with pytest.raises(Unsupported, match=r"model\.z.*complex64"):
        shards.piece_of("model.z", torch.zeros(2, dtype=torch.complex64))
