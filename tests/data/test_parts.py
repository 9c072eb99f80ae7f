"""Some rows of a batch, made alone: those that making all of them gives, and nothing else looked
at."""

import numpy as np
import pytest
import torch
from torch import Generator

from modelwright.core.recipe import Augment
from modelwright.data.draw import Draw, rows_behind
from modelwright.data.loader import Batch, Loader
from modelwright.data.rows import Rows, ragged
from modelwright.data.shared import Shared, Windows

from .conftest import noise

NUMBER, BATCH = 60, 12
NUMPY = np.random.default_rng(0)
LENGTHS = NUMPY.integers(1, 40, NUMBER)
CLASSES = np.arange(NUMBER) % 3
TEXTS = ragged([NUMPY.integers(2, 50, (length, 2)) for length in LENGTHS])
TABLE = NUMPY.normal(size=(200, 3)).astype(np.float32)
PLACES = np.arange(NUMBER)
COLUMNS = {
    "image": (noise(NUMBER, (3, 8, 8)), CLASSES),
    "shared": (Shared(noise(5, (3, 8, 8)), PLACES % 5), CLASSES),
    "boxes": (
        noise(NUMBER, (3, 8, 8)),
        ragged([
            np.array([[1, 2, 6, 7, row % 3]] * (row % 4), np.float32).reshape(-1, 5)
            for row in PLACES
        ]),
    ),
    "ids": (TEXTS, ragged([np.arange(length) % 3 for length in LENGTHS])),
    "samples": (
        ragged([
            NUMPY.integers(-9000, 9000, 300 + 9 * length).astype(np.int16) for length in LENGTHS
        ]),
        CLASSES,
    ),
    "window": (Windows(TABLE, PLACES, 20), Windows(TABLE, PLACES + 20, 5)),
}  # fmt: skip
STEPS = {
    "image": [[], [{"flip": "both"}, {"crop": 2}, {"rotate": 10}, {"erase": 0.3}],
              [{"shift": 0.1}, {"mixup": 0.4}], [{"cutmix": 1.0}, {"flip": "horizontal"}]],
    "shared": [[{"zoom": 0.2}]],
    "boxes": [[{"flip": "both"}, {"shift": 0.1}],
              [{"mosaic": 0.5}, {"flip": "both"}, {"mosaic": 0.3}]],
    "ids": [[], [{"drop_tokens": 0.2}]],
    "samples": [[], [{"speed": 0.2}, {"mask_time": 0.2}, {"mask_frequency": 0.3}, {"speed": 0.1}]],
    "window": [[{"jitter": 0.1}]],
}  # fmt: skip
CASES = [(kind, steps) for kind, every in STEPS.items() for steps in every]


def loader_of(kind: str, steps: list[dict]) -> Loader:
    column, targets = COLUMNS[kind]
    name = "image" if kind in ("shared", "boxes") else kind
    rows = Rows({name: column}, targets, [""] * NUMBER)
    asked = [Augment.model_validate(step) for step in steps]
    return Loader(rows, batch_size=BATCH, seed=3, augment=asked, rate=800)


def tensors_of(batch: Batch) -> dict[str, torch.Tensor]:
    mixed = {} if batch.targets_mixed is None else {"mixed": batch.targets_mixed}
    return {**batch.inputs, **mixed, "targets": batch.targets}


@pytest.mark.parametrize(("kind", "steps"), CASES, ids=str)
@pytest.mark.parametrize("parts", [2, 4])
def test_parts_together_are_the_batch(kind, steps, parts):
    """Whatever is drawn and mixed, as long as the whole batch's rows are; of boxes that were mixed
    each part has room for its own."""
    loader = loader_of(kind, steps)
    for step in (0, 4, 7):
        whole = loader.batch(step)
        made = [loader.batch(step, part, parts) for part in range(parts)]
        wanted = tensors_of(whole)

        assert [whole.mix] * parts == [one.mix for one in made]
        assert all(BATCH // parts == len(one.targets) for one in made)
        for name, value in wanted.items():
            found = [tensors_of(one)[name] for one in made]
            if kind == "boxes" and name == "targets":
                width = value.shape[1]
                found = [pad(one, width) for one in found]
            torch.testing.assert_close(torch.cat(found), value, rtol=0, atol=1e-4)


def pad(boxes: torch.Tensor, width: int) -> torch.Tensor:
    behind = (0, 0, 0, width - boxes.shape[1])
    return torch.nn.functional.pad(boxes, behind, value=float(boxes.min().clamp_max(-1)))


@pytest.mark.parametrize(
    ("steps", "most"), [([], 3), ([{"rotate": 10}], 3), ([{"mixup": 0.4}], 7)], ids=str
)
def test_only_own_rows_are_looked_at(steps, most, monkeypatch):
    """A quarter of the batch; where rows are mixed, what is mixed into them too, and one to learn
    which that is."""
    loader, looked = loader_of("shared", steps), []
    gather = Shared.gather
    monkeypatch.setattr(
        Shared, "gather", lambda self, rows: (looked.extend(rows.tolist()), gather(self, rows))[1]
    )
    loader.batch(2, 1, 4)
    every = loader.indices(2).tolist()

    assert set(every[3:6]) <= set(looked) <= set(every)
    assert 3 <= len(looked) <= most


def test_a_row_draws_alike_beside_others():
    """Numbers of some rows are those that drawing for all gives them, of every kind."""
    rows = torch.tensor([1, 4, 5])

    def drawn(of: torch.Tensor | None) -> list[torch.Tensor]:
        draw = Draw(Generator().manual_seed(1), 6, of)
        made = 6 if of is None else len(of)
        numbers = [draw.uniform(made, 2), draw.normal(made, 3), draw.integers(9, made)]
        return [*numbers, draw.own(draw.order(made)), draw.own(draw.others(made, 2))]

    for whole, own in zip(drawn(None), drawn(rows), strict=True):
        assert torch.equal(whole[rows], own)


def test_what_rows_look_at_is_followed_back():
    """Through every step that mixes, the last one first."""
    first, second = torch.tensor([1, 2, 3, 0]), torch.tensor([0, 3, 2, 1])

    assert [1, 2] == rows_behind(torch.tensor([1]), [first]).tolist()
    assert [0, 3] == rows_behind(torch.tensor([3]), [first]).tolist()
    assert [0, 1, 2, 3] == rows_behind(torch.tensor([1]), [first, second]).tolist()
