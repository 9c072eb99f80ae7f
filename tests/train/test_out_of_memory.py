"""Memory that ends: fewer rows at once and the same batch, or an error that says what to do."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.train.test_parallel import recipe_of

from modelwright.core.errors import Exit, TrainingFailed
from modelwright.tasks.catalog import TASKS
from modelwright.train.journal import Record
from modelwright.train.loop import Trainer
from modelwright.train.out_of_memory import LEFT, out_of_memory
from modelwright.train.settings import Budget

from .conftest import differing, trainer_of, weights_of, world_of
from .processes import run_ranks

CPU = ("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: "
       "you tried to allocate 99 bytes. Error code 12 (Cannot allocate memory)")  # fmt: skip


class Small:
    """A machine on which so many rows at once, in training or not, are too many from a step on."""

    def __init__(self, trainer: Trainer, rows: int, from_step: int, error: Exception) -> None:
        self.trainer, self.rows, self.from_step, self.error = trainer, rows, from_step, error
        for model in {id(one): one for one in (trainer.model, trainer.averaged)}.values():
            model.register_forward_hook(self._after)
        self.texts: list[str] = []
        trainer.journal.record = Record(note=self.texts.append)
        trainer.micro.planned = "the plan predicted 1 GB (activations 1 GB)"

    def _after(self, model, inputs, output):
        if self.trainer.step >= self.from_step and len(inputs[0]) >= self.rows:
            raise self.error


@pytest.mark.parametrize(
    "error", [RuntimeError(CPU), MemoryError(), torch.OutOfMemoryError("CUDA out of memory.")],
    ids=["cpu", "python", "gpu"],
)  # fmt: skip
def test_the_step_is_tried_again_with_fewer_rows(tmp_path, error):
    """From the step on that fails, a training is that of the smaller micro batch, to the bit; and
    people and ledger hear of it once, with what the plan had predicted."""
    keys = {"budget": Budget(steps=12)}
    trainer = trainer_of(tmp_path / "a", "transformer", **keys)
    small = Small(trainer, 8, 5, error)
    trainer.run()
    wanted = trainer_of(tmp_path / "b", "transformer", **keys)
    wanted.run(Budget(steps=5))
    wanted.micro.asked = 4
    wanted.run()

    assert 12 == trainer.step and 4 == trainer.micro.size
    assert [] == differing(weights_of(wanted), weights_of(trainer))
    first, second = small.texts
    assert "memory ended in step 5, with 16 rows at once" in first
    assert "the plan predicted 1 GB" in first and "the plan predicted" not in second
    assert "again with train.micro_batch_size 8; the batch stays at 16" in first
    assert "with 8 rows at once" in second and "train.micro_batch_size 4" in second
    assert "batch norm" not in first


def test_smaller_groups_of_batch_norm_are_said(tmp_path):
    """Where a model has batch norm, smaller micro batches are another training: it is told."""
    trainer = trainer_of(tmp_path, "cnn")
    small = Small(trainer, 16, 5, MemoryError())
    trainer.run(Budget(steps=7))

    assert "but batch norm now sees groups of that size" in small.texts[0]


def test_looking_at_valid_takes_fewer_rows_too(tmp_path):
    """Memory that ends while valid is looked at shrinks the batches of the look."""
    trainer = trainer_of(tmp_path, "transformer")
    before = trainer.evaluate().value
    small = Small(trainer, 9, 0, MemoryError())

    assert before == trainer.evaluate().value
    assert "looking at valid after step 0" in small.texts[0]


def test_the_smaller_size_is_kept_in_the_checkpoint(tmp_path):
    """A resumed training does not run into the same wall, and is exact."""
    quiet, first = (trainer_of(tmp_path / name, "transformer") for name in "ab")
    for trainer in (quiet, first):
        Small(trainer, 16, 5, MemoryError())
    quiet.run(Budget(steps=20))
    first.run(Budget(steps=10))
    first.save()
    second = trainer_of(tmp_path / "b", "transformer")
    second.run(Budget(steps=20))

    assert 8 == second.micro.size
    assert [] == differing(weights_of(quiet), weights_of(second))


def test_one_row_too_many_is_an_error(tmp_path):
    """Where a single row does not fit, the error says what else takes less; state is intact."""
    trainer = trainer_of(tmp_path, "transformer")
    trainer.run(Budget(steps=3))
    before = weights_of(trainer)
    Small(trainer, 1, 3, RuntimeError(CPU))
    with pytest.raises(TrainingFailed, match="with 1 row at once") as caught:
        trainer.run()

    assert Exit.BAD_INPUT == caught.value.exit_code
    assert "you tried to allocate 99 bytes" in caught.value.what
    assert "the plan predicted" in caught.value.what
    assert "model.size" in caught.value.repair
    assert [] == differing(before, weights_of(trainer))


def test_a_batch_that_belongs_together_is_not_split(tmp_path):
    """Where a loss compares all rows of a batch, the repair is a smaller batch."""
    trainer = trainer_of(tmp_path)
    trainer.micro.whole = True
    Small(trainer, 16, 3, MemoryError())
    with pytest.raises(TrainingFailed, match="memory ended in step 3") as caught:
        trainer.run()

    assert "lower train.batch_size" in caught.value.repair
    assert ["control", "image-text-matching"] == sorted(
        name for name, task in TASKS.items() if task.whole_batches
    )


def train_short_of_memory(rank, folder, degrees):
    """Train on this rank; the second one has no memory for five rows at once from step 3 on. Gives
    the steps that were made, the size, what was said, the weights' sums; or an error's words."""
    world, texts = world_of(rank, **degrees), []
    trainer = trainer_of(
        folder, "transformer", world=world, budget=Budget(steps=6), checkpoint_steps=2,
        record=Record(note=texts.append),
    )  # fmt: skip

    def look(model, inputs, output):
        if trainer.step >= 3 and len(inputs[0]) > 4 and rank == 1:
            raise RuntimeError(CPU)

    trainer.model.register_forward_hook(look)
    try:
        trainer.run()
    except TrainingFailed as error:
        return error.what, error.repair
    weights = dict(world.each_whole(trainer.averaged.state_dict()))
    sums = {name: value.double().sum().item() for name, value in weights.items()}
    return trainer.step, trainer.micro.size, texts, sums


def require_trained(sums, folder, args=None):
    """The weights are those that one process finds that puts through all rows at once."""
    alone = trainer_of(folder, "transformer", budget=Budget(steps=6), args=args)
    alone.run()
    wanted = {name: one.double().sum().item() for name, one in alone.averaged.named_parameters()}
    assert wanted == pytest.approx({name: sums[name] for name in wanted}, abs=1e-3)


def test_ranks_agree_on_fewer_rows(tmp_path):
    """Memory that ends on one of two ranks: both try the step again with half of their rows."""
    first, second = run_ranks(
        tmp_path, 2, train_short_of_memory, tmp_path / "kept", {"data": 2}
    )  # fmt: skip

    assert (6, 4) == first[:2] == second[:2]
    assert "memory ended in step 3, with 8 rows at once (rank 1: can't allocate" in second[2][0]
    assert "memory ended in step 3, with 8 rows at once (rank 1)" in first[2][0]
    assert "train.micro_batch_size 4; the batch stays at 16" in first[2][0]
    assert first[3] == second[3]
    require_trained(first[3], tmp_path / "alone")


def train_short_in_a_pass(rank, folder, degrees, most):
    """Train on this rank; the second one has no memory for more than so many rows at once from step
    3 on. Gives the same."""
    world, texts = world_of(rank, **degrees), []
    planned = "the plan predicted 1 GB" if rank == 0 else ""
    trainer = trainer_of(
        folder, "transformer", world=world, budget=Budget(steps=6), checkpoint_steps=2,
        record=Record(note=texts.append, planned=planned), args=DEALT,
    )  # fmt: skip

    def look(*given):
        if trainer.step >= 3 and rank == 1 and trainer.micro.size > most:
            raise RuntimeError(CPU)

    for block in trainer.model.body.blocks:
        block.register_forward_hook(look)
    try:
        trainer.run()
    except TrainingFailed as error:
        return error.what, error.repair
    weights = dict(world.each_whole(trainer.averaged.state_dict()))
    sums = {name: value.double().sum().item() for name, value in weights.items()}
    return trainer.step, trainer.micro.size, texts, sums


DEALT = {"dim": 64, "num_layers": 2}
WAITING = [("sharded", 8), ("tensor", 16), ("context", 16), ("pipeline", 4)]


@pytest.mark.parametrize(
    ("axis", "rows"),
    [WAITING[0], *(pytest.param(*one, marks=pytest.mark.slow) for one in WAITING[1:])],
)
def test_ranks_that_wait_in_a_pass_start_again_with_fewer_rows(tmp_path, axis, rows):
    """Of matrices, blocks or places that are dealt out all stop, with the words of the one that was
    short and with what the plan had predicted; the same command goes on with half of the rows, and
    ends where one process does."""
    half = rows // 2
    given = (2, train_short_in_a_pass, tmp_path / "kept", {axis: 2}, half)
    stopped = run_ranks(tmp_path, *given)
    first, second = run_ranks(tmp_path, *given)

    for what, repair in stopped:
        assert f"rank 1: memory ended in step 3, with {rows} rows at once" in what
        assert "can't allocate memory" in what and "the plan predicted 1 GB" in what
        assert f"train.micro_batch_size {half}" in repair and "--max-restarts" in repair
    assert (6, half) == first[:2] == second[:2]
    (text,) = first[2]
    assert f"memory ended with more rows at once: train.micro_batch_size is {half} now" in text
    require_trained(first[3], tmp_path / "alone", args=DEALT)


def rows_at_once(rank, folder):
    """As many as a training finds that begins in a folder of its own."""
    return trainer_of(folder / str(rank), "cnn", world=world_of(rank, data=2)).micro.asked


def test_a_size_that_one_process_sees_counts_for_all(tmp_path):
    """Where a shared file system has not caught up: with other numbers of passes, processes that
    are cut in pieces would wait for each other."""
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / LEFT).write_text('{"micro_batch_size": 4, "why": "made up"}')

    assert [4, 4] == run_ranks(tmp_path / "ranks", 2, rows_at_once, tmp_path)


SHORT = """\
import os, sys
import torch
from modelwright.cli import main
from modelwright.models.transformer import EncoderBlock

plain = EncoderBlock.forward


def short(self, sequence, *given, **more):
    if os.environ["RANK"] == "1" and self.training and len(sequence) > 4:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 99 bytes.")
    return plain(self, sequence, *given, **more)


EncoderBlock.forward = short
sys.exit(main())
"""


@pytest.mark.slow
def test_the_launcher_starts_again_with_fewer_rows(tmp_path):
    """With --max-restarts nobody has to do anything: one start finds what memory takes, the next
    one trains to the end."""
    recipe_of("text-classification", tmp_path)
    script = tmp_path / "short.py"
    script.write_text(SHORT)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         "--max-restarts", "1", str(script), "run", str(tmp_path / "recipe.yaml"),
         "model.size=tiny", "model.family=transformer", "budget.train_steps=10",
         "train.batch_size=16", "train.layout.sharded=2", "--out", str(tmp_path / "runs")],
        capture_output=True, text=True,
    )  # fmt: skip

    assert 0 == done.returncode, done.stderr[-3000:]
    assert "rank 1: memory ended in step 0, with 8 rows at once (CUDA out of memory" in done.stderr
    assert "the plan predicted" in done.stderr
    assert "train.micro_batch_size is 4 now" in done.stderr


def test_no_memory_for_the_update_is_an_error(tmp_path, monkeypatch):
    """Where the optimizer finds no room for its moments, fewer rows would not help: it is said."""
    trainer = trainer_of(tmp_path, "transformer")

    def no_room():
        raise RuntimeError(CPU)

    monkeypatch.setattr(trainer.optimizer, "step", no_room)
    with pytest.raises(TrainingFailed, match="memory ended behind the gradient of step 0") as found:
        trainer.run()

    assert "free memory" in found.value.repair
    assert 16 == trainer.micro.size


@pytest.mark.parametrize(
    "said",
    ["CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
     "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
     "cuDNN error: CUDNN_STATUS_ALLOC_FAILED"],
    ids=["cuda", "cublas", "cudnn"],
)  # fmt: skip
def test_what_libraries_of_a_gpu_say_counts(said):
    """They raise errors without a type of their own; another of theirs stays a bug."""
    assert out_of_memory(RuntimeError(said))
    assert not out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))
    assert not out_of_memory(ValueError(said))


def test_other_errors_are_not_taken_for_it(tmp_path):
    """A bug stays a bug."""
    trainer = trainer_of(tmp_path)
    Small(trainer, 1, 0, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))

    assert not out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        trainer.train_step()


LIMITED = """\
import resource, sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[2])
from tests_train_conftest import rows, spec_of, settings_of
from modelwright.core import hardware
from modelwright.tasks.catalog import TASKS
from modelwright.models.catalog import fresh_model
from modelwright.train.loop import Trainer
from modelwright.train.settings import Budget
settings = settings_of("cnn", batch_size=16384, budget=Budget(steps=1))
spec = spec_of("cnn", widths=(16, 16))
part = rows(16384)
trainer = Trainer(fresh_model(spec, 0), spec, TASKS["image-classification"], part, rows(16, 1),
                  settings, Budget(steps=1), Path(sys.argv[1]))
taken = torch.empty(hardware._RESERVED, dtype=torch.uint8)  # what the process has in hand already
held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
room = held + 350 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (room, room))
trainer.run()
print(trainer.step, trainer.micro.size)
"""


@pytest.mark.slow
def test_a_real_limit_on_memory(tmp_path):
    """A process that the system gives no more memory trains on with smaller micro batches."""
    own = Path(__file__).with_name("conftest.py")
    shutil.copy(own, tmp_path / "tests_train_conftest.py")
    (tmp_path / "c").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, tmp_path / "c", tmp_path],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip

    assert 0 == done.returncode, done.stderr[-2000:]
    steps, size = map(int, done.stdout.split())
    assert 1 == steps and 0 < size < 16384
    assert re.search(r"memory ended in step 0, with 16384 rows at once \(", done.stderr)
