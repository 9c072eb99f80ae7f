"""Language models judged: no scores are kept, memory is bounded, two forms are compared by row."""

import numpy as np
import pytest

from modelwright.core.signature import Signature, TensorSpec
from modelwright.data.rows import Rows, ragged
from modelwright.measure import quality
from modelwright.measure.compare import compare
from modelwright.measure.quality import evaluate
from modelwright.tasks.catalog import TASKS

TASK = TASKS["language-modeling"]
VOCABULARY = 7
LENGTHS = (12, 12, 3, 12, 5)


class Table:
    """Scores that hang on the last id alone; notes how many came in one call."""

    signature = Signature(
        (TensorSpec("ids", "int64", ("batch", "time", 1)),),
        tuple(
            TensorSpec(name, "float32", ("batch", "time", VOCABULARY))
            for name in ("logits", "probabilities")
        ),
    )

    def __init__(self, seed: int = 0) -> None:
        self.scores = np.random.default_rng(seed).normal(size=(VOCABULARY, VOCABULARY))
        self.sizes: list[int] = []

    def __call__(self, batch):
        logits = self.scores[batch["ids"][..., 0]].astype(np.float32)
        self.sizes.append(logits.size)
        found = np.exp(logits)
        return {"logits": logits, "probabilities": found / found.sum(-1, keepdims=True)}

    def close(self) -> None:
        pass


@pytest.fixture
def rows():
    draw = np.random.default_rng(1)
    every = [draw.integers(2, VOCABULARY, (length + 1, 1)).astype(np.int32) for length in LENGTHS]
    ids, targets = [one[:-1] for one in every], [one[1:, 0] for one in every]
    return Rows({"ids": ragged(ids)}, ragged(targets), [""] * len(LENGTHS))


def test_each_place_counts_once_and_no_scores_are_kept(rows):
    """The mean over all places, however rows are batched; the interval encloses it."""
    session = Table()
    found = evaluate(session, rows, TASK)
    log = session.scores - np.log(np.exp(session.scores).sum(1, keepdims=True))
    before, after = rows.inputs["ids"].values[:, 0], rows.targets.values

    assert -log[before, after].mean() == pytest.approx(found.value, rel=1e-5)
    assert found.low < found.value < found.high
    assert {} == found.outputs
    assert list(LENGTHS) == found.statistics[:, 2].tolist()
    assert np.array_equal(after, found.targets)


def test_one_call_never_gives_too_many_scores(rows, monkeypatch):
    """A large vocabulary makes small batches; the figures stay the same."""
    whole = evaluate(Table(), rows, TASK)
    monkeypatch.setattr(quality, "MOST_SCORES", 2 * 12 * VOCABULARY)
    session = Table()
    again = evaluate(session, rows, TASK)

    assert max(session.sizes) <= 2 * 16 * VOCABULARY  # padded to a multiple of eight
    assert 3 == len(session.sizes)
    assert whole.value == pytest.approx(again.value)


def test_two_forms_are_compared_by_window(rows):
    """A drop with its interval; how many answers changed is not known."""
    one, two = (evaluate(Table(seed), rows, TASK) for seed in (0, 1))
    found = compare(one, two, TASK)

    assert two.value - one.value == pytest.approx(found.drop)
    assert found.low <= found.drop <= found.high
    assert None is found.flipped
