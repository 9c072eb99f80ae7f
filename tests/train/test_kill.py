"""kill -9 at any moment: the same command goes on, and the model is the one of a quiet day."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from modelwright import cli
from modelwright.train import checkpoint

from .processes import start_command
from .stripes import EVERY, loaded, model_of, newest_step, run_in, write_recipe

STEPS, SHORT, FEWER = 240, 90, 60
SIZES = ("tiny", "small", "base")


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    """family, steps -> the weights of a training that nothing interrupts, made once."""
    made: dict[tuple[str, int], bytes] = {}

    def get(family: str, steps: int) -> bytes:
        if (family, steps) not in made:
            folder = tmp_path_factory.mktemp(family)
            recipe = write_recipe(folder, family, steps=steps)
            assert 0 == cli.call(["train", str(recipe), "--out", str(folder)])
            made[family, steps] = model_of(folder)
        return made[family, steps]

    return get


def start(recipe, out, *launcher) -> subprocess.Popen:
    command = [sys.executable, "-W", "ignore", *launcher, "-m", "modelwright", "train", recipe,
               "--out", out]  # fmt: skip
    return subprocess.Popen(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip


def wait_for(process: subprocess.Popen, out, step: int) -> None:
    """Until the checkpoint of a step is there."""
    while newest_step(out) < step and process.poll() is None:
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("family", "kills", "steps"),
    [("transformer", 1, SHORT),
     *(pytest.param(family, 20, STEPS, marks=pytest.mark.slow) for family in ("cnn", "rnn"))],
)  # fmt: skip
@pytest.mark.xdist_group("kill")
def test_kills_change_nothing(tmp_path, quiet, family, kills, steps):
    """However often it is killed, the run that goes on ends with the uninterrupted weights."""
    recipe, wanted = write_recipe(tmp_path, family, steps=steps), quiet(family, steps)
    out, chance, killed = tmp_path / "killed", random.Random(kills), []
    for step in sorted(chance.sample(range(1, 3 * steps // 4), kills)):
        process = start(recipe, out)
        wait_for(process, out, step)
        time.sleep(chance.random() * 0.02)
        process.kill()
        process.communicate()
        killed.append(process.returncode)
    last = start(recipe, out)
    said = last.communicate()[1]

    assert -signal.SIGKILL in killed
    assert (0, "train: continues at step") == (last.returncode, said[said.find("train: c") :][:24])
    assert ["stripes-001"] == [folder.name for folder in out.iterdir()]
    assert wanted == model_of(out)
    curve = (run_in(out) / "train/metrics.jsonl").read_text()
    assert steps == curve.count('"loss"')


SAMPLES = [("tiny", 1, 3), ("tiny", 2, 3)]
WHOLE = [(size, number, 50) for size in SIZES for number in (1, 2)]


@pytest.mark.parametrize(
    ("size", "number", "kills"),
    [*SAMPLES, *(pytest.param(*one, marks=pytest.mark.slow) for one in WHOLE)],
)
def test_a_kill_loses_only_the_save_in_flight(tmp_path, size, number, kills):
    """kill -9 of the command's processes at random moments around saves, of all or of one: the
    newest checkpoint can always be loaded and holds its step's state bit by bit, at most the save
    in flight is lost, a process that is left ends with an error, and the same command goes on,
    saves, and ends with the weights of a training that nothing interrupted."""
    recipe, chance = (
        write_recipe(tmp_path, size=size, steps=FEWER),
        random.Random(f"{size}{number}"),
    )
    layout = f"train.layout.{'sharded' if size == 'small' else 'data'}={number}"
    train = ("train", recipe, layout, "--out")
    all_saves = (*train, tmp_path / "q", "train.keep_checkpoints=1000")
    assert [0] * number == start_command(tmp_path, number, *all_saves).ends_with()
    saves = run_in(tmp_path / "q") / "train/checkpoints"
    wanted = {
        one.name: json.loads((one / checkpoint.RECORD).read_bytes())["shards"]
        for one in saves.glob("step-*")
    }
    killed, rounds, last, out = 0, 0, 0, tmp_path / "0"
    while killed < kills:
        job = start_command(tmp_path, number, *train, out)
        if job.until(last + EVERY * chance.randint(1, 3)):
            time.sleep(chance.random() * 0.03)
            job.kill(chance.choice([None, *range(number)]))
        codes = job.ends_with()
        said = (tmp_path / "said-0.txt").read_text()
        assert (f"continues at step {last} " in said) == (last > 0)
        assert set(codes) <= {None, 0, 2}, said
        killed += None in codes
        if codes[0] == 0:  # done: begin anew
            assert model_of(tmp_path / "q") == model_of(out)
            last, rounds = 0, rounds + 1
            out = tmp_path / str(rounds)
            continue
        last, begun = newest_step(out), job.shared.value

        assert begun - EVERY <= last <= begun + EVERY  # killed before it could say that it began
        if last:  # or the first save was in flight
            record = loaded(run_in(out) / "train/checkpoints")
            assert (last, wanted[record["folder"].name]) == (record["step"], record["shards"])
    assert [0] * number == start_command(tmp_path, number, *train, out).ends_with()
    assert model_of(tmp_path / "q") == model_of(out)


@pytest.mark.slow
@pytest.mark.parametrize("kills", [[1], [0, 1, 0]], ids=str)
def test_torchrun_starts_again_what_was_killed(tmp_path, kills):
    """With --max-restarts a rank that dies is started again with the others, by torchrun alone: the
    training goes on from the newest checkpoint, and its weights are, bit for bit, those of two
    processes that nobody killed."""
    recipe, chance = write_recipe(tmp_path), random.Random(len(kills))
    quiet = start_command(tmp_path, 2, "train", recipe, "--out", tmp_path / "q")
    out = tmp_path / "killed"
    process = start(recipe, out, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node",
                    "2", "--max-restarts", str(len(kills)))  # fmt: skip
    for number, rank in enumerate(kills, 1):
        wait_for(process, out, number * STEPS // 5 + chance.randint(0, 20))
        time.sleep(chance.random() * 0.02)
        where = json.loads((run_in(out) / f"train/ranks/rank-{rank}").read_bytes())
        os.kill(where["pid"], signal.SIGKILL)
    said = process.communicate()[1]

    assert 0 == process.returncode, said
    assert len(kills) == said.count("train: continues at step")
    assert [0, 0] == quiet.ends_with()
    assert model_of(tmp_path / "q") == model_of(out)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "Ctrl-C"]
)
@pytest.mark.xdist_group("kill")
def test_signal_saves_and_the_same_command_continues(
    tmp_path, quiet, monkeypatch, capsys, number, code
):
    """A signal in the middle ends with its own exit code; the same command ends the training
    as if nothing had been."""
    from modelwright.train.loop import Trainer

    wanted, train_step = quiet("transformer", SHORT), Trainer.train_step
    recipe = write_recipe(tmp_path, steps=SHORT)
    command = ["train", str(recipe), "--out", str(tmp_path / "stopped")]

    def signalled(trainer):
        if trainer.step == 40 and trainer.journal.path:
            os.kill(os.getpid(), number)
        return train_step(trainer)

    with monkeypatch.context() as context:
        context.setattr(Trainer, "train_step", signalled)
        assert code == cli.call(command)
    said = capsys.readouterr().err

    assert f"stopped by {number.name}" in said and "same command continues" in said
    assert 41 == newest_step(tmp_path / "stopped")
    assert 0 == cli.call(command)
    assert wanted == model_of(tmp_path / "stopped")
    curve = (run_in(tmp_path / "stopped") / "train/metrics.jsonl").read_text()
    assert SHORT == curve.count('"loss"')


def test_a_signal_to_one_process_stops_and_saves_all(tmp_path):
    """Of two processes one gets SIGTERM: both end with its exit code behind the same save, and the
    same command ends with the weights of two that nobody stopped."""
    recipe = write_recipe(tmp_path, steps=FEWER)
    commands = [("train", recipe, "--out", tmp_path / name) for name in ("q", "stopped")]
    assert [0, 0] == start_command(tmp_path, 2, *commands[0]).ends_with()
    job = start_command(tmp_path, 2, *commands[1])
    assert job.until(20)
    os.kill(job.processes[1].pid, signal.SIGTERM)

    assert [143, 143] == job.ends_with()
    step = newest_step(tmp_path / "stopped")
    said = (tmp_path / "said-0.txt").read_text()
    assert f"train: step {step} is saved\nstopped by SIGTERM; the same command continues" in said
    assert "" == (tmp_path / "said-1.txt").read_text()
    assert [0, 0] == start_command(tmp_path, 2, *commands[1]).ends_with()
    assert model_of(tmp_path / "q") == model_of(tmp_path / "stopped")


@pytest.mark.xdist_group("kill")
def test_nan_loss_is_exit_2_and_keeps_the_checkpoint(tmp_path, monkeypatch, capsys):
    """A loss that is no number ends the command with exit 2 and words; the state before it is
    kept and the same command, the cause gone, ends the training."""
    from modelwright.train.loop import Trainer

    train_step = Trainer.train_step
    recipe = write_recipe(tmp_path, steps=SHORT)
    command = ["train", str(recipe), "--out", str(tmp_path / "runs")]

    def poisoned(trainer):
        if trainer.step == 50 and trainer.journal.path:  # not while the plan takes times
            trainer.model.head.linear.bias.data[0] = float("nan")
        return train_step(trainer)

    with monkeypatch.context() as context:
        context.setattr(Trainer, "train_step", poisoned)
        assert 2 == cli.call(command)
    said = capsys.readouterr().err

    assert "the loss became nan at step 50" in said and "repair:" in said
    assert 48 == newest_step(tmp_path / "runs")
    assert 0 == cli.call(command)
