"""LOGGERS: where the curves go besides metrics.jsonl. To add one: write a class, add a row.

Both get the lines of metrics.jsonl, some hundred of a training, from one thread of their own
(train/journal.py): a training waits for none of them. Nothing else leaves the process:
MLflow's telemetry is switched off before it is imported.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from modelwright.core.errors import ConfigError, MissingExtra, did_you_mean
from modelwright.core.files import write_json


class Logger(Protocol):
    """One place that curves go to; any method may raise, and then it is called no more."""

    name: str

    def open(self) -> None:
        """Make ready, if that was not done, what may take seconds: before a clock runs."""
        ...

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take what was measured after `step`."""
        ...

    def drop_after(self, step: int) -> None:
        """Training goes on from `step`: what was logged later will come again."""
        ...

    def close(self, finished: bool) -> None:
        """Write what is still held; `finished` or stopped before the end."""
        ...


class TensorBoard:
    """Event files in `tensorboard/` of the training's folder.

    Args:
        folder: of the training, such as runs/digits-001/train.
    """

    name = "tensorboard"

    def __init__(self, folder: Path, run: Path, uri: str | None) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtra(
                "tensorboard", "tensorboard", "train.loggers: tensorboard"
            ) from error
        self._make, self._folder = SummaryWriter, folder / "tensorboard"
        self._writer: Any = None
        self._purge: int | None = None

    def open(self) -> None:
        if self._writer is None:
            self._writer = self._make(str(self._folder), purge_step=self._purge)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.open()
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def drop_after(self, step: int) -> None:
        self._purge = step + 1

    def close(self, finished: bool) -> None:
        if self._writer is not None:
            self._writer.close()


class MLflow:
    """A run in MLflow, by its client: in an SQLite file beside the runs, or on a server.

    Args:
        folder: of the training; mlflow.json there says which run is its own, so that a training
            that goes on goes on in the same one.
        run: the run's folder; its name is the run's, the experiment is `modelwright`.
        uri: of the tracking server or database; None is mlflow.db beside the run's folder.
    """

    name = "mlflow"
    EXPERIMENT, PATIENCE_S = "modelwright", "5"

    def __init__(self, folder: Path, run: Path, uri: str | None) -> None:
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
        # a server that is away must not hold a training up: one short try, then go without
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", self.PATIENCE_S)
        try:
            import mlflow
            import sqlalchemy  # noqa: F401  (mlflow-skinny does without, but then has no database)
        except ImportError as error:
            raise MissingExtra(error.name or "mlflow", "mlflow", "train.loggers: mlflow") from error
        logging.getLogger("mlflow").setLevel(logging.WARNING)  # not how it makes its tables
        root = run.resolve().parent
        self._uri = uri or f"sqlite:///{root / 'mlflow.db'}"
        self._root, self._run, self._file = root, run.name, folder / "mlflow.json"
        self._mlflow = mlflow
        self._client: Any = None
        self._id = ""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.open()
        now = int(time.time() * 1000)
        metric = self._mlflow.entities.Metric
        metrics = [metric(name, float(value), now, step) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def drop_after(self, step: int) -> None:
        """MLflow deletes no points: those logged after `step` stand there twice."""

    def close(self, finished: bool) -> None:
        if self._client is not None:
            self._client.set_terminated(self._id, status="FINISHED" if finished else "KILLED")

    def open(self) -> None:
        if self._client is not None:
            return
        client = self._mlflow.MlflowClient(tracking_uri=self._uri)
        known = json.loads(self._file.read_bytes()) if self._file.is_file() else {}
        if known.get("uri") == self._uri:
            self._id = str(known["run_id"])
            client.update_run(self._id, status="RUNNING")
        else:
            found = client.get_experiment_by_name(self.EXPERIMENT)
            local = self._uri.startswith("sqlite:")
            place = (self._root / "mlflow-artifacts").as_uri() if local else None
            experiment = (
                found.experiment_id
                if found
                else client.create_experiment(self.EXPERIMENT, artifact_location=place)
            )
            self._id = client.create_run(experiment, run_name=self._run).info.run_id
            write_json(self._file, {"uri": self._uri, "run_id": self._id})
        self._client = client


# name -> (folder of the training, the run's folder, train.mlflow_uri) -> the logger
LOGGERS: dict[str, Callable[[Path, Path, str | None], Logger]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
}


def open_loggers(
    names: tuple[str, ...], folder: Path, run: Path, uri: str | None = None
) -> tuple[Logger, ...]:
    """The loggers of `train.loggers`, none of which has opened its place yet.

    Raises: MissingExtra without the library, before anything is trained; ConfigError for an
        unknown name.
    """
    for name in names:
        if name not in LOGGERS:
            raise ConfigError(f"no logger {name!r}", expected=did_you_mean(name, LOGGERS))
    return tuple(LOGGERS[name](folder, run, uri) for name in names)
