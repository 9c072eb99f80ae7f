"""The line on screen, the speeds, and what a training tells the ledger."""

import json

import numpy as np
import pytest

from modelwright import figures
from modelwright.core.recipe import Recipe
from modelwright.core.run import create
from modelwright.data.rows import Rows, ragged
from modelwright.models.catalog import ModelSpec
from modelwright.train import journal
from modelwright.train.journal import Journal, Record
from modelwright.train.settings import Budget

from .conftest import rows, settings_of, spec_of, trainer_of

TEXT = {"kind": "text", "vocab_size": 50, "features": 1, "length": 8, "max_length": 64}


def test_speeds_are_shares_of_what_was_measured():
    """Tokens, FLOPs and MFU follow from examples a second and what is known; no more is shown."""
    known = Record(flops_per_example=2e6, peak_flops_per_s=4e9, tokens_per_example=32.0)

    assert {"examples_per_s": 500.0, "tokens_per_s": 16_000.0, "flops_per_s": 1e9, "mfu": 0.25} == (
        known.speeds(500.0)
    )
    assert {"examples_per_s": 500.0} == Record(peak_flops_per_s=4e9).speeds(500.0)
    assert {"examples_per_s", "flops_per_s"} == set(Record(flops_per_example=1.0).speeds(1.0))


@pytest.mark.parametrize(
    ("record", "wanted"),
    [(Record(), "train  step 10  loss 0.500  640 examples/s  "),
     (Record(flops_per_example=2e6, peak_flops_per_s=1e10, tokens_per_example=32.0),
      "train  step 10  loss 0.500  20,480 tokens/s  1.28GFLOP/s  MFU 13%  ")],
)  # fmt: skip
def test_the_line_on_screen(monkeypatch, record, wanted):
    """It shows tokens where rows are tokens, and rates only where they are known."""
    shown = []
    monkeypatch.setattr(journal, "shown", lambda: True)
    monkeypatch.setattr(journal, "show", shown.append)
    one = Journal(None, Budget(steps=20), lambda step: 64 * step, record)
    one.begin("train", 0, 0.0)
    one.step(Budget(steps=20), 10, 1.0, loss=0.5, learning_rate=0.1, observed={})

    assert [wanted] == [line[: len(wanted)] for line in shown]
    assert shown[0].endswith("1 s left")


def test_curves_hold_the_speeds(tmp_path):
    """Each line of a step has what the record makes known."""
    metrics = tmp_path / "metrics.jsonl"
    record = Record(flops_per_example=3.0, peak_flops_per_s=1e9)
    trainer_of(tmp_path / "c", metrics=metrics, record=record).run(Budget(steps=2))
    first = json.loads(metrics.read_text().splitlines()[0])

    assert pytest.approx(3 * first["examples_per_s"]) == first["flops_per_s"]
    assert pytest.approx(first["flops_per_s"] / 1e9) == first["mfu"]


def test_a_note_is_said_and_stands_in_the_ledger(tmp_path, capsys):
    """What a run's training did otherwise than asked is one event and one line."""
    run = create(tmp_path, "digits", "", "digest", version="0")
    recipe = Recipe.model_validate(
        {"task": "image-classification", "data": {"source": "digits"}}
    )  # fmt: skip
    winner = {"forward_flops": 10, "backward_flops": 20, "memory": {"process": 5_000_000}}
    given = (run, recipe, winner, spec_of("cnn"), settings_of(), rows(8))
    record, of_two = figures.record(*given), figures.record(*given, 2)
    Journal(None, Budget(steps=1), int, record).note("something else was done")

    assert ["train: something else was done"] == [
        event["text"] for event in run.events("train", "fallback")
    ]
    assert "train: something else was done\n" == capsys.readouterr().err
    assert (30.0, None) == (record.flops_per_example, record.tokens_per_example)
    assert 0 < 2 * record.peak_flops_per_s == of_two.peak_flops_per_s
    assert "the plan predicted 5 MB (process 5 MB)" == record.planned


def test_tokens_of_rows_are_counted():
    """Rows of unequal length count by their mean; pictures are no tokens."""
    ids = ragged([np.ones((length, 1), np.int64) for length in (3, 5, 10)])
    texts = Rows({"ids": ids}, np.zeros(3, np.int64), [""] * 3)
    spec = ModelSpec("transformer", "tiny", TEXT, {"kind": "classes", "num_classes": 2})

    assert 6.0 == figures.tokens_per_row(spec, texts)
    assert None is figures.tokens_per_row(spec_of("cnn"), rows(8))
