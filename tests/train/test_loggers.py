"""TensorBoard and MLflow: what the curves say stands there too; none of them ends a training."""

import importlib.util
import json
import os
import subprocess
import sys
import threading
import time

import pytest

from modelwright.core.errors import MissingExtra
from modelwright.core.recipe import Recipe
from modelwright.train import loggers
from modelwright.train.journal import Record
from modelwright.train.loggers import LOGGERS, open_loggers
from modelwright.train.settings import Budget

from .conftest import trainer_of

needs_tensorboard = pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="the extra tensorboard is missing"
)
needs_mlflow = pytest.mark.skipif(
    importlib.util.find_spec("mlflow") is None, reason="the extra mlflow is missing"
)


class Failing:
    """A server that is away from a call on."""

    name = "failing"

    def __init__(self, works: int) -> None:
        self.works, self.calls = works, 0

    def open(self):
        pass

    def log(self, step, values):
        self.calls += 1
        if self.calls > self.works:
            raise ConnectionError("no route to host\nand more")

    def drop_after(self, step):
        pass

    def close(self, finished):
        raise AssertionError("it was left out")


def curves_of(path):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def trained(folder, names, *, stop=None, uri=None):
    """A training of twelve steps with these loggers, stopped and continued if asked."""
    run = folder / "runs/digits-001"
    for until in (Budget(steps=stop), None) if stop else (None,):
        record = Record(loggers=open_loggers(names, run / "train", run, uri))
        trainer = trainer_of(
            run / "train/checkpoints", budget=Budget(steps=12), checkpoint_steps=4,
            metrics=run / "train/metrics.jsonl", record=record,
        )  # fmt: skip
        trainer.run(until)
        trainer.journal.close(finished=until is None)
    return run, trainer


@needs_tensorboard
def test_tensorboard_reads_the_curves(tmp_path):
    """Every step's loss stands in the event files once, also after a stop between checkpoints."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run, _ = trained(tmp_path, ("tensorboard",), stop=6)
    found = EventAccumulator(str(run / "train/tensorboard")).Reload()
    losses = {event.step: event.value for event in found.Scalars("loss")}

    assert curves_of(run / "train/metrics.jsonl") == pytest.approx(losses, rel=1e-6)
    assert list(range(1, 13)) == [event.step for event in found.Scalars("loss")]
    assert {"valid_accuracy", "examples_per_s"} <= set(found.Tags()["scalars"])


@needs_mlflow
def test_mlflow_keeps_one_run_in_one_file(tmp_path, monkeypatch):
    """Without a URI it is mlflow.db beside the runs; a continued training continues its run."""
    from mlflow import MlflowClient

    monkeypatch.chdir(tmp_path)
    run, _ = trained(tmp_path, ("mlflow",), stop=8)
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/runs/mlflow.db")
    (experiment,) = [one for one in client.search_experiments() if one.name == "modelwright"]
    (found,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(found.info.run_id, "loss")

    assert ("digits-001", "FINISHED") == (found.info.run_name, found.info.status)
    assert curves_of(run / "train/metrics.jsonl") == {one.step: one.value for one in history}
    assert {"digits-001", "mlflow.db"} == {path.name for path in (tmp_path / "runs").iterdir()}
    assert {"runs"} == {path.name for path in tmp_path.iterdir()}


class Slow:
    """A place that opens late and takes nothing until its event is set."""

    name = "slow"

    def __init__(self) -> None:
        self.ready, self.steps, self.opened_s = threading.Event(), [], 0.3

    def open(self):
        time.sleep(self.opened_s)

    def log(self, step, values):
        self.ready.wait()
        self.steps += [step] if "loss" in values else []

    def drop_after(self, step):
        pass

    def close(self, finished):
        self.steps.append(finished)


def test_a_training_waits_for_no_logger(tmp_path):
    """It is opened before the clock runs and written to aside; at the end all stands there."""
    slow = Slow()
    trainer = trainer_of(tmp_path, budget=Budget(steps=3), record=Record(loggers=(slow,)))
    before = time.perf_counter()
    trainer.run()
    spent, written = time.perf_counter() - before, list(slow.steps)
    slow.ready.set()
    trainer.journal.close(finished=True)

    assert [] == written and [1, 2, 3, True] == slow.steps
    assert trainer.elapsed <= spent - slow.opened_s


def test_a_logger_that_does_not_open_is_left_out(tmp_path):
    """Which is told as any other failure of it is."""
    failing, texts = Failing(0), []
    failing.open = failing.log = lambda *given: 1 / 0
    trainer = trainer_of(
        tmp_path, budget=Budget(steps=2), record=Record(note=texts.append, loggers=(failing,))
    )
    trainer.run()

    assert 2 == trainer.step
    assert ["train: failing is not written to any longer (ZeroDivisionError: division by zero); "
            "training goes on"] == texts  # fmt: skip


def test_a_failing_logger_does_not_end_a_training(tmp_path, capsys):
    """It is left out from its first error on, which people and the ledger are told once."""
    failing, texts = Failing(3), []
    trainer = trainer_of(
        tmp_path, budget=Budget(steps=12), record=Record(note=texts.append, loggers=(failing,))
    )
    trainer.run()
    trainer.journal.close(finished=True)

    assert 12 == trainer.step and 4 == failing.calls
    wanted = ("train: failing is not written to any longer (ConnectionError: no route to host); "
              "training goes on")  # fmt: skip
    assert [wanted] == texts
    assert 1 == capsys.readouterr().err.count(wanted)


@needs_mlflow
def test_a_server_that_is_away_is_said_and_left(tmp_path, capsys):
    """Nobody listens at that address: one try, one line, and the training ends as it should."""
    _, trainer = trained(tmp_path, ("mlflow",), uri="http://127.0.0.1:9")

    assert 12 == trainer.step
    assert 1 == capsys.readouterr().err.count("train: mlflow is not written to any longer")


@pytest.mark.parametrize("name", LOGGERS)
def test_a_missing_library_names_its_extra(tmp_path, monkeypatch, name):
    """Before anything is trained, the error says what to install."""
    for module in ("mlflow", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra) as caught:
        open_loggers((name,), tmp_path, tmp_path)

    assert f"modelwright[{name}]" in caught.value.repair
    assert f"train.loggers: {name}" in caught.value.what


@needs_mlflow
def test_nothing_is_sent_anywhere(tmp_path):
    """With both loggers at their defaults, no connection to another machine is tried."""
    code = (
        "import socket, sys, time; from pathlib import Path\n"
        "def refuse(self, address): print('CONNECTS', address, flush=True); raise OSError()\n"
        "socket.socket.connect = socket.socket.connect_ex = refuse\n"
        "socket.getaddrinfo = lambda *a, **k: refuse(None, a)\n"
        "from modelwright.train.loggers import open_loggers\n"
        "one = Path(sys.argv[1])\n"
        "for logger in open_loggers(('tensorboard', 'mlflow'), one / 'train', one):\n"
        "    logger.log(1, {'loss': 1.0}); logger.close(True)\n"
        "import mlflow.telemetry.utils as own; print('off', own.is_telemetry_disabled())\n"
    )
    (tmp_path / "run/train").mkdir(parents=True)
    environment = {name: value for name, value in os.environ.items() if name != "DO_NOT_TRACK"}
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "run"], capture_output=True, text=True,
        env=environment,
    )  # fmt: skip

    assert 0 == done.returncode, done.stderr
    assert "off True\n" == done.stdout
    assert "" == done.stderr


@pytest.mark.parametrize(
    "train", [{"loggers": ["wandb"]}, {"mlflow_uri": "http://a:5000"},
              {"loggers": ["mlflow"], "mlflow_uri": "./mlruns"}],
)  # fmt: skip
def test_wrong_keys_are_refused(train):
    """An unknown logger, an address that nobody reads, and the file store that MLflow refuses."""
    with pytest.raises(ValueError, match=r"train|mlflow_uri"):
        Recipe.model_validate(
            {"task": "image-classification", "data": {"source": "digits"}, "train": train}
        )


def test_every_logger_of_the_recipe_is_a_row():
    """What train.loggers allows is what LOGGERS has."""
    fields = Recipe.model_fields["train"].annotation.model_fields
    allowed = fields["loggers"].annotation.__args__[0].__args__

    assert set(loggers.LOGGERS) == set(allowed)
