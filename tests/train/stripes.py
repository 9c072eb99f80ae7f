"""A recipe that the commands can be given: striped pictures in a file, a tiny model, many saves."""

from pathlib import Path

import numpy as np

from modelwright.train import checkpoint

from .conftest import rows

EVERY = 3  # steps from save to save
RECIPE = """\
task: image-classification
data: {{source: {source}}}
budget: {{train_steps: {steps}}}
model: {{family: {family}, size: {size}}}
train:
  batch_size: 16
  precision: 32-true
  checkpoint_steps: {every}
  micro_batch_size: 8
  augment: [{{shift: 0.2}}, {{mixup: 0.4}}]
"""


def write_recipe(folder: Path, family: str = "transformer", size: str = "tiny", *, steps: int = 240,
                 every: int = EVERY) -> Path:  # fmt: skip
    """stripes.yaml and its data; the run in a folder `out` is `run_in(out)`."""
    folder.mkdir(parents=True, exist_ok=True)
    train, test, source = rows(120), rows(40, 1), folder / "stripes.npz"
    np.savez(source, x_train=train.images[:, 0], y_train=train.targets,
             x_test=test.images[:, 0], y_test=test.targets)  # fmt: skip
    path, given = folder / "stripes.yaml", {"family": family, "size": size, "every": every}
    path.write_text(RECIPE.format(source=source, steps=steps, **given))
    return path


def run_in(out: Path) -> Path:
    """The one run there."""
    return out / "stripes-001"


def model_of(out: Path) -> bytes:
    """The weights that came out."""
    return (run_in(out) / "train/model/model.safetensors").read_bytes()


def newest_step(out: Path) -> int:
    """Of the checkpoints' names; 0 without one."""
    names = [one.name for one in (run_in(out) / "train/checkpoints").glob("step-*")]
    return max((int(name[5:13]) for name in names), default=0)


def loaded(folder: Path) -> dict:
    """The record of the newest checkpoint in a folder, all of which could be read."""
    record = checkpoint.newest(folder)
    assert record is not None
    checkpoint.restore(record, checkpoint.room_for(record, ""))
    return record
